"""Models that make mistakes: the embedded ones with noise added to their weights, made on the spot.

The embedded model solves every task that is shown, so it tries no branch that needs a wrong answer. With noise it answers less
than 90 % of the prompts right, never answers some classes, and under some demonstration sets answers one class only.
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

# Shares of a matrix's standard deviation: some answers are wrong; nearly all are one class.
ERRS, NEARLY_CONSTANT = 0.4, 0.6


def noisy(source: Path, folder: Path, scale: float = ERRS, seed: int = 1) -> Path:
    """A copy of a checkpoint with normal noise added to each matrix.

    Args:
        source: The checkpoint's folder.
        folder: The folder to make.
        scale: Standard deviation of the noise, as a share of the matrix's own.
        seed: Of the noise.
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
    """A random model of two layers with one head each, and the embedded model's tokenizer."""
    shutil.copytree(ORGANISM, folder)
    shape = AutoConfig.from_pretrained(folder)
    shape.update({"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 2})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder
