"""Text on its way to the models: documents, passages, and the passage store."""
