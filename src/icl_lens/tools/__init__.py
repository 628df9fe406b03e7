"""Compression, classification and re-weighting with the user's own texts, outside of a study."""
