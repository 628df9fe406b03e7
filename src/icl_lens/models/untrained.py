"""Untrained copies of models: the same architecture with random weights. A result on a copy cannot come from training."""

from __future__ import annotations

import copy
import dataclasses

import torch

from icl_lens.models.language_model import LanguageModel


def untrained(model: LanguageModel, seed: int, device: torch.device | None = None, name: str | None = None) -> LanguageModel:
    """Return a copy of a model with random weights, drawn by the initialization of its architecture.

    Args:
        model: The model, which does not change.
        seed: Seed of the weights. The global random state does not change.
        device: Device of the copy; the model's device by default.
        name: Name of the copy; by default the model's name with the suffix ``-untrained``.

    Returns:
        A model with the same tokenizer and number format, on the given device. Its facts contain the seed and the
        original model.
    """
    config = copy.deepcopy(model.network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(model.network)(config)  # drawn on the CPU, so that the weights do not depend on the device
    network = network.to(device=device or model.device, dtype=model.network.dtype).eval().requires_grad_(False)
    network.set_attn_implementation(model.network.config._attn_implementation)
    name = name or f"{model.name}-untrained"
    facts = {**{k: v for k, v in model.facts.items() if k != "files"}, "name": name, "weights": {"drawn_with_seed": seed}}
    if "files" in model.facts:
        facts["weights"]["architecture_of"] = model.facts["files"]
    return dataclasses.replace(model, name=name, network=network, facts=facts)
