"""Results of evaluations: kept as they come, read again, and turned into figures, comparisons and a page; and retrieval alone."""
