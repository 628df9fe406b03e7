"""The tanh approximation of GELU, as one operation where a family writes it out in eight.

GPT-2, GPT-J and CodeGen compute it step by step (``gelu_new``), each step a pass over the widest activations and, where
gradients are wanted, a copy of them that is kept. It is torch's ``gelu(approximate="tanh")`` to rounding.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation


def fuse(network: PreTrainedModel) -> None:
    """Put the one operation in the place of each such activation of a model."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FastGELUActivation | NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
