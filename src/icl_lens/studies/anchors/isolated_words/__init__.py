"""The likeliest next tokens with label words isolated."""
