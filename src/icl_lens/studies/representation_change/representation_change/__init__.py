"""Representation change: answers, representations and attention with and without examples, on paired prompts."""
