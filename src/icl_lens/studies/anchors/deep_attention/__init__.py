"""Attention of the last position to label words."""
