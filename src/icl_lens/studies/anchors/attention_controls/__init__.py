"""Deep attention with controls."""
