"""Language models: loading, batches, logits, shared prefixes, generation."""
