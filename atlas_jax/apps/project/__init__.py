"""Projects: one folder with models, passages, index, questions, training, results and gin files."""
