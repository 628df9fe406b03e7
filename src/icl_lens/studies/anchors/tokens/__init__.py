"""The tokens of each prompt."""
