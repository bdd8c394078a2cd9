"""Files: atomic writes, checksums, JSON lines, progress."""
