"""Models that make mistakes: the embedded models with noise added to their weights, created on the fly.

The embedded model solves each of the tasks in the figures, so it does not cover branches that need a wrong answer. With noise,
it answers less than 90 % of the prompts correctly, never predicts some classes, and predicts only one class with some
demonstration sets.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from .conftest import REPOSITORY

ORGANISM = REPOSITORY / "src/icl_lens/organism/checkpoint"
READER = REPOSITORY / "src/icl_lens/reader_organism/checkpoint"

# Noise levels relative to a matrix's standard deviation: some answers are wrong; nearly all answers are one class.
ERRS, NEARLY_CONSTANT = 0.4, 0.6


def noisy(source: Path, folder: Path, scale: float = ERRS, seed: int = 1) -> Path:
    """Copy a checkpoint and add normal noise to each matrix.

    Args:
        source: Folder of the checkpoint.
        folder: Folder to create.
        scale: Standard deviation of the noise relative to that of the matrix.
        seed: Seed of the noise.
    """
    shutil.copytree(source, folder)
    weights, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(seed)
    for name in sorted(weights):
        matrix = weights[name]
        if matrix.dim() == 2:
            weights[name] = matrix + scale * matrix.std() * torch.randn(matrix.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def one_head(folder: Path) -> Path:
    """Create a random model with two layers of one head each, and the embedded model's tokenizer."""
    shutil.copytree(ORGANISM, folder)
    shape = AutoConfig.from_pretrained(folder)
    shape.update({"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 2})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder
