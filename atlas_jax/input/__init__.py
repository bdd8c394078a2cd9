"""From examples to token batches (Grain)."""
