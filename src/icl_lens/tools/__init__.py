"""Compressing, classifying and re-weighting with a user's own texts, outside of a study."""
