"""The study rewritten."""
