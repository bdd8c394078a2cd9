"""Published files, each in its publisher's format, to the passages and examples that Atlas reads."""
