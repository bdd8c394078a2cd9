"""Converts published files into the passages and examples that Atlas reads."""
