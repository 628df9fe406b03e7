"""Controls that the paper does not have: prompts with shuffled labels, and an untrained copy of the model.

**Shuffled labels**: the label words of the demonstrations are permuted, so that texts and labels no longer match. All words of
the prompt remain in it. **Untrained copy**: a model of the same architecture with its initial, untrained weights. A result on
this copy cannot come from training.

A study with these controls uses :func:`prepare` and :func:`each`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.untrained import untrained
from icl_lens.network.placement import is_placed
from icl_lens.prompts.demonstrations import demonstration_texts, replace_demonstrations
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.control_settings import Control
from icl_lens.studies.inputs import Given, Inputs, of_tables


def shuffle_labels(prompts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the prompts with the label words of their demonstrations permuted.

    The new order is drawn uniformly from all orders that differ from the original, because an unchanged prompt is not a
    control. With two classes and one demonstration per class, the only such order is the flipped one. Prompts of the same seed
    with the same demonstrations get the same new order, so they still share a prefix.

    Args:
        prompts: A prompts table, which may come from another program.
        seed: Seed of the permutations.

    Returns:
        A prompts table with the same prompt_id. The columns text and demo_labels and all spans are updated, and set gets the
        suffix ``-shuffled``.

    Raises:
        InputError: All demonstrations of a prompt have the same label, so no other order exists.
    """
    return pd.DataFrame([_shuffled(row, seed) for row in prompts.to_dict("records")], columns=prompts.columns)


def _shuffled(row: dict, seed: int) -> dict:
    labels = [int(label) for label in row["demo_labels"]]
    if len(set(labels)) < 2:
        raise InputError(
            f"prompt {row['prompt_id']}: its demonstrations have fewer than two different labels, so the labels cannot be "
            "shuffled; use demonstrations of at least two classes"
        )
    last = int(row["label_spans"][-1][1])
    shared = hashlib.sha256(json.dumps([row["text"][:last], labels]).encode()).digest()[:8]
    generator = np.random.default_rng([seed, int(row["seed"]), int.from_bytes(shared)])
    shuffled = labels
    while shuffled == labels:
        shuffled = generator.permutation(labels).tolist()
    changed = replace_demonstrations(row, demonstration_texts(row), shuffled)
    return {**row, **changed, "set": f"{row['set']}-shuffled"}


def prepare(given: Given) -> Inputs:
    """Return the first prompts of each seed, unchanged (``prompts``) and with shuffled labels (``shuffled``).

    Raises:
        InputError: The labels of a prompt cannot be shuffled, or no prompt fits the model's context.
    """
    selected = given.table.groupby("seed", sort=False).head(given.settings.queries)
    inputs = of_tables(given, {"prompts": selected, "shuffled": shuffle_labels(selected, given.settings.seed)})
    return dataclasses.replace(inputs, facts=_facts(given))


def _facts(given: Given) -> dict[str, Any]:
    """Return the artifact's metadata of the controls that the settings do not contain: how the untrained weights were drawn."""
    network = given.model.network
    return {
        "untrained_copy": {
            "architecture": type(network).__name__,
            "weights": "drawn by the architecture's own initialisation, in float32 on the CPU",
            "initializer_range": getattr(network.config.get_text_config(), "initializer_range", None),
            "drawn_with_seed": given.settings.seed,
        }
    }


def iterate(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], shuffled: Sequence[TokenizedPrompt], seed: int
) -> Iterator[tuple[Control, LanguageModel, Sequence[TokenizedPrompt]]]:
    """Yield the name, model and prompts of each control. The first, ``none``, is the model on the unchanged prompts.

    While the untrained copy runs, the original model is on the CPU, so that the device holds only one of them at a time. A
    model whose layers are on several devices cannot be moved, and its copy gets the memory that is free.
    """
    yield "none", model, prompts
    yield "shuffled", model, shuffled
    if is_placed(model.network):
        yield "untrained", untrained(model, seed), prompts
        return
    device = model.device
    model.network.to("cpu")
    try:
        yield "untrained", untrained(model, seed, device), prompts
    finally:
        model.network.to(device)
