"""Replace the embeddings of some tokens in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.network.precision import at_least_float32


@contextmanager
def replaced_embeddings(network: PreTrainedModel, places: Tensor, words: Tensor) -> Iterator[None]:
    """Replace the embeddings of some tokens with mean embeddings of some words, in the forward pass inside this context.

    These are the outputs of the embedding layer, before position embeddings are added.

    Args:
        network: Any model.
        places: For a token whose embedding is replaced, the place n from 0, and -1 for the others, shape (B, Q). Its embedding
            becomes the mean over the words with more than n tokens of the embedding of their n-th token.
        words: Token ids of C words of at most N tokens, padded with -1, shape (B, C, N). At least one has N tokens.
    """
    embedding = network.get_input_embeddings()
    present = (words >= 0)[..., None]  # (B, C, N, 1)
    with torch.no_grad():
        embedded = at_least_float32(embedding(words.clamp(min=0)))  # (B, C, N, D)
        present = present.to(embedded.device)
        means = (embedded * present).sum(1) / present.sum(1).clamp(min=1)  # (B, N, D)

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        at = places.to(output.device)[..., None]  # (B, Q, 1)
        chosen = means.to(output.device, output.dtype).gather(1, at.clamp(min=0).expand(-1, -1, output.shape[-1]))  # (B, Q, D)
        return torch.where(at >= 0, chosen, output)  # (B, Q, D)

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
