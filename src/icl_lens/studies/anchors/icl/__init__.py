"""The study icl: what the model answers to each prompt."""
