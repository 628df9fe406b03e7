"""Controls that the paper lacks: what a study shows on prompts, or with a model, from which nothing can be learnt.

**Shuffled labels**: the demonstrations' label words change places among themselves, so that text and label no longer belong
together while every word of the prompt is still there. **An untrained copy**: the same architecture with weights as they are
before training, so that whatever a study finds on it is no trace of learning.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import torch

from icl_lens.errors import InputError
from icl_lens.models import LanguageModel


def shuffle_labels(prompts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same prompts with their demonstrations' label words permuted.

    The new order is drawn uniformly from those that differ from the old one (with two classes and one demonstration each
    that is the flipped one: a prompt left as it was would be no control). Prompts of one seed with the same demonstrations get
    the same new order, so they still share their beginning.

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
    return {**row, **_relabelled(row, shuffled), "demo_labels": shuffled, "set": f"{row['set']}-shuffled"}


def _relabelled(row: dict, labels: list[int]) -> dict:
    """A prompt's text with other label words in its demonstrations, and its spans where they are then."""
    old = [(int(start), int(end)) for start, end in row["label_spans"]]
    text, done, label_spans, shifts = "", 0, [], []
    for (start, end), label in zip(old, labels, strict=True):
        word = row["label_words"][label]
        text += row["text"][done:start]
        label_spans.append([len(text), len(text) + len(word)])
        text += word
        done = end
        shifts.append(len(text) - end)

    def moved(span) -> list[int]:
        """A span that overlaps no label word: it moves with the last one before it."""
        before = sum(end <= span[0] for _, end in old)
        shift = shifts[before - 1] if before else 0
        return [int(span[0]) + shift, int(span[1]) + shift]

    return {
        "text": text + row["text"][done:],
        "label_spans": label_spans,
        "text_spans": [moved(span) for span in row["text_spans"]],
        "query_span": moved(row["query_span"]),
        "prefix_spans": [moved(span) for span in row["prefix_spans"]],
    }


def untrained(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy of a model with weights drawn anew, as its own architecture draws them before training.

    Args:
        model: The model; it stays as it is.
        seed: Of the weights. The global random numbers are not touched.

    Returns:
        The same name with ``-untrained`` added, tokenizer, device and number format; its facts name the model it copies and
        the seed.
    """
    config = copy.deepcopy(model.network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(model.network)(config)  # drawn on the CPU, so that a device changes no weight
    network = network.to(device=model.device, dtype=model.network.dtype).eval().requires_grad_(False)
    network.set_attn_implementation(model.network.config._attn_implementation)
    name = f"{model.name}-untrained"
    facts = {**{k: v for k, v in model.facts.items() if k != "files"}, "name": name, "weights": {"drawn_with_seed": seed}}
    if "files" in model.facts:
        facts["weights"]["architecture_of"] = model.facts["files"]
    return dataclasses.replace(model, name=name, network=network, facts=facts)
