"""The index: passage embeddings on disk and on the devices."""
