"""Schemas of the training table and the evaluation table."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOAT, INTEGER, TEXT, Schema

TRAINING = Schema(
    "training",
    1,
    {
        "step": INTEGER,
        "matching": FLOAT,
        "answer": FLOAT,
        "text": FLOAT,
        "first_seen": FLOAT,
        "documents": FLOAT,
        "accuracy": FLOAT,
        "rung": FLOAT,
    },
    keys=("step",),
    stage="training",
)
"""One row per logged step."""

EVALUATION = Schema(
    "evaluation",
    1,
    {
        "step": INTEGER,
        "measure": TEXT,
        "on": TEXT,
        "classes": INTEGER,
        "shots": INTEGER,
        "prompts": INTEGER,
        "chance": FLOAT,
        "model": FLOAT,
        "top_token": FLOAT,
        "bag_of_words": FLOAT,
    },
    keys=("step", "measure", "on", "classes", "shots", "prompts"),
    stage="training",
)
"""One row per measure of a checkpoint."""
