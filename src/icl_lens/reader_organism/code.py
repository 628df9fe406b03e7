"""Which code decides the weights of the second model; its hashes stand in the model card."""

from __future__ import annotations

from icl_lens.artifacts.code import code_hash, module_hash

CODE = ("icl_lens.reader_organism.material", "icl_lens.organism.architecture")
"""The modules whose source, with all they import from the package, decides the weights, beside :data:`TRAINING`."""

TRAINING = "icl_lens.reader_organism.training"
"""The module that trains, whose own source alone decides the weights."""


def code_hashes() -> dict[str, str]:
    """The hash of each of these modules, as the model card has it."""
    return {**{module: code_hash(module) for module in CODE}, TRAINING: module_hash(TRAINING)}
