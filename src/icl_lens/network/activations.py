"""The tanh approximation of GELU as one operation, for model families that compute it in eight operations.

GPT-2, GPT-J and CodeGen compute it step by step (``gelu_new``). Each step reads the widest activations and, if gradients are
enabled, keeps a copy of them. The result equals torch's ``gelu(approximate="tanh")`` up to rounding.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation


def fuse(network: PreTrainedModel) -> None:
    """Replace each ``gelu_new`` or fast GELU activation of a model by the single operation."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FastGELUActivation | NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
