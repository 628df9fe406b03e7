"""Tasks of the paper and tasks defined by the user."""
