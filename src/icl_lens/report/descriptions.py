"""Descriptions of models, tasks and tokens in words, without a plotting library."""

from __future__ import annotations

from typing import Any

from icl_lens.hub.gguf_files import FLOATS


def weights(model: dict[str, Any]) -> str:
    """Describe a model's weights for a caption, for example "Q4_K_M weights, dequantised".

    The result is empty if the weights are those of a float checkpoint without an adapter.

    Args:
        model: The model's facts (:class:`icl_lens.models.language_model.LanguageModel`).
    """
    if "weights" in model:
        return f"random weights (untrained copy, seed {model['weights']['drawn_with_seed']})"
    parts = []
    if gguf := model.get("gguf", {}).get("quantisation", ""):
        parts.append(f"{gguf} weights" if gguf in FLOATS else f"{gguf} weights, dequantised")
    if stored := model.get("quantisation"):
        parts.append(f"{stored['bits']}-bit weights ({stored['method']} {stored['type']}), dequantised")
    if adapter := model.get("adapter"):
        parts.append(f"with LoRA adapter {adapter['name']}, merged")
    return "; ".join(parts)


def task_title(metadata: dict[str, Any], name: str) -> str:
    """Return the title of a task, or ``name`` if the metadata have no title because the prompts were made elsewhere."""
    return (metadata.get("task") or {}).get("title", name)


def escaped(text: str) -> str:
    """Return text on one line, with non-printable characters such as newlines and tabs escaped as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
