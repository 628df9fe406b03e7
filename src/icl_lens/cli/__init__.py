"""The command line: what the rules of the workflow call, and what a person can call."""
