"""Metrics of answers and of retrieval, in plain Python over strings and numbers."""
