"""Compiled steps: their static spec, retrieval, reading, and the steps that answer, score, evaluate and search."""
