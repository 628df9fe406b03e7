"""Utilities for transformers models: layers, vocabulary matrix, activations, number formats and memory."""
