"""Layers over token streams; reader and retriever inputs put together from token segments."""
