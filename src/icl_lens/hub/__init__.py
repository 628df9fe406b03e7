"""Models and data sets from the Hub, GGUF files, and records of where files come from."""
