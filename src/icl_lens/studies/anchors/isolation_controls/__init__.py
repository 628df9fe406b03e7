"""Isolation with controls."""
