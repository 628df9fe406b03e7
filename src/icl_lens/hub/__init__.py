"""Models and data sets from a hub, GGUF files, and the records that say where files came from."""
