"""Reads other projects' models into ours and writes them back: name tables and transforms."""
