"""A project: one folder with models, passages, index, questions, training, results and their gin files."""
