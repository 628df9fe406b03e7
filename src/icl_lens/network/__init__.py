"""Utilities for a transformers network: layers, vocabulary matrix, activations, number formats and memory."""
