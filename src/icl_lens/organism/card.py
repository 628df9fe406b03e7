"""The model card: what made the weights, and what they can do, as ``card.json`` beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from icl_lens.organism.evaluation import evaluate
from icl_lens.organism.recipe import Training
from icl_lens.provenance import code_hash, library_versions

NAME = "card.json"
CODE = ("icl_lens.organism.architecture", "icl_lens.organism.optimisation")
"""The modules whose source, with all they import from the package, decides the weights."""


def training_code() -> dict[str, str]:
    """The hashes of the code that decides the weights; to be taken when the training starts."""
    return {module: code_hash(module) for module in CODE}


def write_card(
    folder: Path, config: Training, *, code: dict[str, str], seconds: float, tokens: int, last: dict[str, float]
) -> None:
    """Evaluates the checkpoint in ``folder`` and writes its card there.

    Args:
        folder: The checkpoint.
        config: What it was trained with.
        code: What :func:`training_code` said.
        seconds: How long the training took.
        tokens: How many tokens it saw.
        last: The last line of the training's log.
    """
    versions = library_versions()
    card = {
        "training": {
            "config": asdict(config),
            "device": "cpu",
            "seconds": round(seconds, 1),
            "tokens": tokens,
            "last": last,
            "code": code,
            "versions": {name: versions[name] for name in ("torch", "transformers", "tokenizers", "numpy")},
        },
        "evaluation": evaluate(folder, corpus_seed=config.corpus_seed),
    }
    (folder / NAME).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
