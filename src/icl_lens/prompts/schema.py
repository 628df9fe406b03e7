"""Schema of prompts tables."""

from __future__ import annotations

from icl_lens.artifacts.schema import INTEGER, INTEGERS, SPAN, SPANS, TEXT, TEXTS, Schema

PROMPTS = Schema(
    "prompts",
    1,
    {
        "task": TEXT,
        "set": TEXT,
        "seed": INTEGER,
        "prompt_id": INTEGER,
        "shots": INTEGER,
        "query_index": INTEGER,
        "demo_indices": INTEGERS,
        "text": TEXT,
        "gold": INTEGER,
        "label_words": TEXTS,
        "demo_labels": INTEGERS,
        "label_spans": SPANS,
        "text_spans": SPANS,
        "query_span": SPAN,
        "prefix_spans": SPANS,
    },
    keys=("task", "set", "seed", "prompt_id", "shots"),
    stage="prompts",
)
"""Schema with one row per prompt. Spans are [start, end) character positions in its text."""
