"""Number of isolated layers in *Label Words are Anchors*, section 2.2. This module does not import torch."""

from __future__ import annotations

DEEP = 14
"""Minimum depth at which the paper's numbers of layers are used unchanged."""


def main_layers(depth: int) -> int:
    """Return Figure 4's k for a model of ``depth`` layers: 5, or a fifth of the depth, rounded up, below 14 layers."""
    return 5 if depth >= DEEP else -(-depth // 5)
