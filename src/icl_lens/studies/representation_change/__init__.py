"""Representation change with examples in context (Yousefi et al., 2024)."""
