"""Controls that the paper lacks: what a study shows on prompts, or with a model, from which nothing can be learnt.

**Shuffled labels**: the demonstrations' label words change places among themselves, so that text and label no longer belong
together while every word of the prompt is still there. **An untrained copy**: the same architecture with weights as they are
before training, so that whatever a study finds on it is no trace of learning.

:func:`prepare`, :func:`each` and :func:`facts` are what a study needs that runs with all of them.
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

from icl_lens.controls_plan import Control, Settings
from icl_lens.errors import InputError
from icl_lens.models import LanguageModel
from icl_lens.positions import TokenizedPrompt


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
    changed = rewritten(row, demonstration_texts(row), shuffled)
    return {**row, **changed, "demo_labels": shuffled, "set": f"{row['set']}-shuffled"}


def rewritten(row: dict, texts: Sequence[str], labels: Sequence[int]) -> dict:
    """A prompt with other texts and label words in its demonstrations, each in its place; all else stays as it is written.

    Args:
        row: A row of a prompts table.
        texts: The demonstrations' texts, in prompt order; D of them.
        labels: Their class indices.

    Returns:
        What changes of the row: text, label_spans, text_spans, query_span and prefix_spans, the spans where they are then.
    """
    words = [row["label_words"][label] for label in labels]
    changes = sorted(
        (int(start), int(end), kind, place)
        for kind in ("text_spans", "label_spans")
        for place, (start, end) in enumerate(row[kind])
    )
    pieces = {"text_spans": texts, "label_spans": words}
    spans: dict[str, list] = {kind: [None] * len(row[kind]) for kind in pieces}
    text, done, shifts = "", 0, []
    for start, end, kind, place in changes:
        text += row["text"][done:start]
        spans[kind][place] = [len(text), len(text) + len(pieces[kind][place])]
        text += pieces[kind][place]
        done = end
        shifts.append(len(text) - end)

    def moved(span) -> list[int]:
        """A span that overlaps nothing that changes: it moves with the last change before it."""
        before = sum(end <= span[0] for _, end, *_ in changes)
        shift = shifts[before - 1] if before else 0
        return [int(span[0]) + shift, int(span[1]) + shift]

    return {
        "text": text + row["text"][done:],
        **spans,
        "query_span": moved(row["query_span"]),
        "prefix_spans": [moved(span) for span in row["prefix_spans"]],
    }


def demonstration_texts(row: dict) -> list[str]:
    """The demonstrations' texts of a row of a prompts table, in prompt order."""
    return [row["text"][int(start) : int(end)] for start, end in row["text_spans"]]


def untrained(model: LanguageModel, seed: int, device: torch.device | None = None) -> LanguageModel:
    """A copy of a model with weights drawn anew, as its own architecture draws them before training.

    Args:
        model: The model; it stays as it is.
        seed: Of the weights. The global random numbers are not touched.
        device: Where the copy is put; where the model is by default.

    Returns:
        The same name with ``-untrained`` added, tokenizer, device and number format; its facts name the model it copies and
        the seed.
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


def prepare(table: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """The prompts tables of a study with controls: the first prompts of each seed, as they are and shuffled."""
    first = table.groupby("seed", sort=False).head(settings.queries)
    return {"prompts": first, "shuffled": shuffle_labels(first, settings.seed)}


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


def facts(model: LanguageModel, settings: Settings) -> dict[str, Any]:
    """What an artifact says of the controls besides its settings: how the untrained copy's weights were drawn."""
    config = model.network.config
    return {
        "untrained_copy": {
            "architecture": type(model.network).__name__,
            "weights": "drawn by the architecture's own initialisation, in float32 on the CPU",
            "initializer_range": getattr(config.get_text_config(), "initializer_range", None),
            "drawn_with_seed": settings.seed,
        }
    }
