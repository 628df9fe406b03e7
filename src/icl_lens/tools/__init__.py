"""Compressing, classifying and re-weighting for use outside a study."""
