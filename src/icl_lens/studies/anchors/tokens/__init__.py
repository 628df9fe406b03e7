"""The study tokens: the tokens of each prompt."""
