"""Figure of the training of the embedded model: the emergence of in-context learning. It contains no study."""
