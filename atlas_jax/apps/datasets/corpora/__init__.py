"""Published corpora, one module for each format; SOURCES lists a module's sources."""
