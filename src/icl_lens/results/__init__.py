"""Whole results folders: the list of their inputs, and the audit of their artifacts."""
