"""Experiments as gin files: checked first, then read by gin. The only room that imports gin."""
