"""Tasks: turn rows of a file into examples with query and target."""
