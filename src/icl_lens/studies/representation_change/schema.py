"""Schema of tables of paired prompts: each query in several conditions, with and without examples."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, SPAN, SPANS, TEXT, TEXTS, Columns, Schema

QUERY: Columns = {
    "query_id": INTEGER,
    "examples": INTEGER,
    "control": FLAG,
    "distractors": INTEGER,
    "truth": TEXT,
    "candidates": TEXTS,
    "truth_candidate": INTEGER,
    "components": TEXTS,
    "competing": TEXTS,
    "position": INTEGER,
    "place": FLOAT,
}
"""Columns that describe the query and the condition of a prompt; the study's table has them too."""

PAIRED_PROMPTS = Schema(
    "paired_prompts",
    1,
    {
        "task": TEXT,
        "set": TEXT,
        "seed": INTEGER,
        "prompt_id": INTEGER,
        **QUERY,
        "text": TEXT,
        "group": TEXT,
        "query_span": SPAN,
        "relevant_spans": SPANS,
        "irrelevant_spans": SPANS,
        "context_spans": SPANS,
        "ending_span": SPAN,
    },
    keys=("task", "set", "seed", "prompt_id", "control", "position"),
    stage="prompts",
    sets=("paired",),
)
"""One row per prompt. Spans are [start, end) in characters of its text."""
