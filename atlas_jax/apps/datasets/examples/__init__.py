"""Converts published questions, claims and dialogues into the examples that our tasks read."""
