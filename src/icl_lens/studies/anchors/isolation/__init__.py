"""Isolation of label words."""
