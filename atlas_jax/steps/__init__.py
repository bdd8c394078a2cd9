"""Compiled steps: their static spec, retrieval, reading; answering, scoring, evaluating, searching.
"""
