"""Figure of the training of the small model: how a model learns to learn in context. It contains no study."""
