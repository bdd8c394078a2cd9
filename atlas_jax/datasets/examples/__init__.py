"""Published questions, claims and dialogues, each in its publisher's format, to the examples that our tasks read."""
