"""Layers over token streams, and the assembly of reader and retriever inputs from token segments."""
