"""Hashes of the code that determines the weights of the embedded model, for the model card."""

from __future__ import annotations

from icl_lens.artifacts.code import code_hash, module_hash

CODE = ("icl_lens.organism.material", "icl_lens.organism.optimisation")
"""The modules that determine the weights, together with everything they import from the package."""


def code_hashes() -> dict[str, str]:
    """Return the hash of each module in :data:`CODE`, as stored in the model card."""
    return {module: code_hash(module) for module in CODE}


def training_code() -> str:
    """Return the hash of the code that requires a new training run when it changes.

    This is the code that determines the weights and the training module itself.
    """
    return f"{code_hash(*CODE)} {module_hash('icl_lens.organism.training')}"
