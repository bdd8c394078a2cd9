"""Turns examples and passages into token batches (Grain)."""
