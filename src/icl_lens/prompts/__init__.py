"""Prompts: drawing of demonstrations, spans, tokenization and chat templates."""
