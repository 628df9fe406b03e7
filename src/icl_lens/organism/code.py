"""Which code decides the weights of the embedded model; its hashes stand in the model card."""

from __future__ import annotations

from icl_lens.artifacts.code import code_hash, module_hash

CODE = ("icl_lens.organism.material", "icl_lens.organism.optimisation")
"""The modules whose source, with all they import from the package, decides the weights."""


def code_hashes() -> dict[str, str]:
    """The hash of each of these modules, as the model card has it."""
    return {module: code_hash(module) for module in CODE}


def training_code() -> str:
    """The hash of the code whose edit asks for a new training: what decides the weights, and the training's own module."""
    return f"{code_hash(*CODE)} {module_hash('icl_lens.organism.training')}"
