"""The matrix products that saliency requires, with their actual shapes, for timing without any other work.

For a prompt of T tokens:

    forward    every projection and feed-forward matrix; scores Q K' and outputs A V of each head
    backward   the gradient with respect to the input of each of these matrices; dA = dO V', dV = A' dO, dQ = dS K, dK = dS' Q
    once       the label words' logits, and their gradient with respect to the hidden state

The count leaves out the work that saliency does not need:

- parameter gradients
- all other logits
- in the last layer, all rows except the last one (keys and values need all rows)
- in the first layer, the gradients that lead back to the embeddings
- scores computed a second time

Attention is counted in two blocks of rows. The first block reads half of the keys. :mod:`icl_lens.attention.flow_kernel` splits
the rows in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icl_lens.network.layers import attention_modules
from icl_lens.prompts.positions import TokenizedPrompt

Shape = tuple[int, ...]


def saliency(network: PreTrainedModel, prompts: Sequence[TokenizedPrompt]) -> tuple[Callable[[], None], float]:
    """Return a function that computes the bare products of all prompts one after another, and their number of operations."""
    pairs: list[tuple[Shape | Tensor, Shape | Tensor]] = []
    for prompt in prompts:
        pairs += _linear(network, len(prompt.ids))
        pairs += _attention(network, len(prompt.ids))
        rows = network.get_output_embeddings().weight[torch.from_numpy(prompt.label_ids).to(network.device)]  # (C, d)
        pairs += [((1, rows.shape[1]), rows.t()), ((1, len(rows)), rows)]
    tensors: dict[Shape, Tensor] = {}

    def operand(given: Shape | Tensor) -> Tensor:
        if isinstance(given, Tensor):
            return given
        if given not in tensors:
            tensors[given] = torch.randn(given, device=network.device, dtype=network.dtype)
        return tensors[given]

    products = [(operand(a), operand(b)) for a, b in pairs]
    outputs: dict[Shape, Tensor] = {}
    targets, operations = [], 0.0
    for a, b in products:
        shape = (*a.shape[:-1], b.shape[-1])
        if shape not in outputs:
            outputs[shape] = torch.empty(shape, device=network.device, dtype=network.dtype)
        targets.append(outputs[shape])
        operations += 2 * outputs[shape].numel() * a.shape[-1]

    @torch.inference_mode()
    def run() -> None:
        for (a, b), target in zip(products, targets, strict=True):
            torch.matmul(a, b, out=target)

    return run, operations


def _linear(network: PreTrainedModel, tokens: int) -> Iterator[tuple[Shape, Tensor]]:
    """Yield the forward products of the linear layers and the products of their inputs' gradients."""
    attentions = attention_modules(network)
    inputs, queries = set(), set()
    for module in attentions:
        linear = [m for m in module.modules() if isinstance(m, nn.Linear | Conv1D)]
        inputs |= set(linear[:-1])  # the last is the output projection
        queries |= set(linear[:1]) if len(linear) > 3 else set()  # a joined projection also computes keys and values
    decoder = network.get_decoder()
    names = {module: name for name, module in decoder.named_modules()}
    # "layers.17.self_attn" -> "layers.17."
    first, last = (_layer(names[module]) for module in (attentions[0], attentions[-1]))
    for module, name in names.items():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        matrix = module.weight if isinstance(module, Conv1D) else module.weight.t()  # (in, out)
        rows = 1 if name.startswith(last) and (module not in inputs or module in queries) else tokens
        yield (rows, matrix.shape[0]), matrix
        if not (name.startswith(first) and module in inputs):
            yield (rows, matrix.shape[1]), matrix.t()


def _layer(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdigit()) + 1]) + "."


def _attention(network: PreTrainedModel, tokens: int) -> Iterator[tuple[Shape, Shape]]:
    """Yield the forward and backward products of attention for all heads."""
    shape = network.config.get_text_config()
    heads, layers = shape.num_attention_heads, shape.num_hidden_layers
    width = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    half = -(-tokens // 2)
    for layer in range(layers):
        parts = [(1, tokens)] if layer == layers - 1 else [(half, half), (tokens - half, tokens)]
        for rows, visible in parts:
            if not rows:
                continue
            query_shape, key_shape, matrix = (heads, rows, width), (heads, visible, width), (heads, rows, visible)
            transposed_keys, transposed_matrix = (heads, width, visible), (heads, visible, rows)
            yield query_shape, transposed_keys  # scores Q K'
            yield matrix, key_shape  # outputs A V
            yield query_shape, transposed_keys  # dA = dO V'
            if layer:
                yield transposed_matrix, query_shape  # dV = A' dO
                yield matrix, key_shape  # dQ = dS K
                yield transposed_matrix, query_shape  # dK = dS' Q
