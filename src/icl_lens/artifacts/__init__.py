"""Artifacts that a step writes (tables, tensors and records with a schema), their provenance, and the audit of a folder."""
