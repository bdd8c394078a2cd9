"""Saving and restoring runs and model folders (Orbax)."""
