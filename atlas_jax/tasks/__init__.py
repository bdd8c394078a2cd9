"""Tasks: from an example in a file to a query and a target."""
