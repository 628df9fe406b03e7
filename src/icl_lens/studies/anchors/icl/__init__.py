"""What the model answers to each prompt."""
