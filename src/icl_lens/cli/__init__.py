"""Command-line interface for the workflow rules and for users."""
