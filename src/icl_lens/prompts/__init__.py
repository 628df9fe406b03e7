"""Prompts: whose demonstrations, which spans, which tokens, and how a chat wraps them."""
