"""Controls that the paper lacks: what a study shows on prompts, or with a model, from which nothing can be learnt.

**Shuffled labels**: the demonstrations' label words change places among themselves, so that text and label no longer belong
together while every word of the prompt is still there. **An untrained copy**: the same architecture with weights as they are
before training, so that whatever a study finds on it is no trace of learning.

:func:`prepare` and :func:`each` are what a study with these controls needs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstrations import demonstration_texts, replace_demonstrations
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.control_settings import Control
from icl_lens.studies.inputs import Given, Inputs, of_tables


def shuffle_labels(prompts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same prompts with their demonstrations' label words permuted.

    The new order is drawn uniformly from those that differ from the old one (with two classes and one demonstration each that
    is the flipped one: a prompt left as it was would be no control). Prompts of one seed with the same demonstrations get the
    same new order, so they still share their beginning.

    Args:
        prompts: A prompts table; it may have been made elsewhere.
        seed: Of the permutations.

    Returns:
        A prompts table with the same prompt_id; text, demo_labels and every span follow, and ``-shuffled`` is added to set.

    Raises:
        InputError: The demonstrations of a prompt all have one label, so that no other order exists.
    """
    return pd.DataFrame([_shuffled(row, seed) for row in prompts.to_dict("records")], columns=prompts.columns)


def _shuffled(row: dict, seed: int) -> dict:
    labels = [int(label) for label in row["demo_labels"]]
    if len(set(labels)) < 2:
        raise InputError(f"prompt {row['prompt_id']}: its demonstrations all have one label, so there is nothing to shuffle")
    last = int(row["label_spans"][-1][1])
    shared = hashlib.sha256(json.dumps([row["text"][:last], labels]).encode()).digest()[:8]
    generator = np.random.default_rng([seed, int(row["seed"]), int.from_bytes(shared)])
    shuffled = labels
    while shuffled == labels:
        shuffled = generator.permutation(labels).tolist()
    changed = replace_demonstrations(row, demonstration_texts(row), shuffled)
    return {**row, **changed, "demo_labels": shuffled, "set": f"{row['set']}-shuffled"}


def untrained(model: LanguageModel, seed: int, device: torch.device | None = None) -> LanguageModel:
    """A copy of a model with weights drawn anew, as its own architecture draws them before training.

    Args:
        model: The model; it stays as it is.
        seed: Of the weights. The global random numbers are not touched.
        device: Where the copy is put; where the model is by default.

    Returns:
        The same name with ``-untrained`` added, tokenizer, device and number format; its facts name the seed and the model that
        it copies.
    """
    config = copy.deepcopy(model.network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(model.network)(config)  # drawn on the CPU, so that a device changes no weight
    network = network.to(device=device or model.device, dtype=model.network.dtype).eval().requires_grad_(False)
    network.set_attn_implementation(model.network.config._attn_implementation)
    name = f"{model.name}-untrained"
    facts = {**{k: v for k, v in model.facts.items() if k != "files"}, "name": name, "weights": {"drawn_with_seed": seed}}
    if "files" in model.facts:
        facts["weights"]["architecture_of"] = model.facts["files"]
    return dataclasses.replace(model, name=name, network=network, facts=facts)


def prepare(given: Given) -> Inputs:
    """The first prompts of each seed, as they are (``prompts``) and with their labels shuffled (``shuffled``).

    Raises:
        InputError: A prompt's labels cannot be shuffled, or no prompt fits the model's context.
    """
    first = given.table.groupby("seed", sort=False).head(given.settings.queries)
    inputs = of_tables(given, {"prompts": first, "shuffled": shuffle_labels(first, given.settings.seed)})
    return dataclasses.replace(inputs, facts=_facts(given))


def _facts(given: Given) -> dict[str, Any]:
    """What an artifact says of the controls besides its settings: how the untrained copy's weights were drawn."""
    network = given.model.network
    return {
        "untrained_copy": {
            "architecture": type(network).__name__,
            "weights": "drawn by the architecture's own initialisation, in float32 on the CPU",
            "initializer_range": getattr(network.config.get_text_config(), "initializer_range", None),
            "drawn_with_seed": given.settings.seed,
        }
    }


def each(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], shuffled: Sequence[TokenizedPrompt], seed: int
) -> Iterator[tuple[Control, LanguageModel, Sequence[TokenizedPrompt]]]:
    """Every control's name, model and prompts; the first is none: the model on the prompts as they are.

    While the untrained copy runs, the model itself is put aside (on the CPU), so that one of them at a time needs the device.
    """
    yield "none", model, prompts
    yield "shuffled", model, shuffled
    device = model.device
    model.network.to("cpu")
    try:
        yield "untrained", untrained(model, seed, device), prompts
    finally:
        model.network.to(device)
