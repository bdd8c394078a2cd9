"""Makes a row of the paper's tables: data, choice of examples, training, evaluation and the paper's figure beside ours."""
