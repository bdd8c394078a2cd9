"""Text on its way to the models: documents, passages, the passage store, and the demo's Factbook."""
