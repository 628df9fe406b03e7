"""Hashes of the code that determines the weights of the second model, for the model card."""

from __future__ import annotations

from icl_lens.artifacts.code import code_hash, module_hash

CODE = ("icl_lens.reader_organism.material", "icl_lens.organism.architecture")
"""The modules that determine the weights besides :data:`TRAINING`, including everything they import from the package."""

TRAINING = "icl_lens.reader_organism.training"
"""The training module. Only its own source determines the weights, not its imports."""


def code_hashes() -> dict[str, str]:
    """Return the hash of each module in :data:`CODE` and of :data:`TRAINING`, as stored in the model card."""
    return {**{module: code_hash(module) for module in CODE}, TRAINING: module_hash(TRAINING)}
