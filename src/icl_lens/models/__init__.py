"""Language models: loading, batches, logits, shared prefixes and generation."""
