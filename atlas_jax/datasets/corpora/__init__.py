"""Published corpora: one module a format, each with its sources."""
