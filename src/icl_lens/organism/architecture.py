"""The architecture of the embedded model, and where its weights start from.

A Llama of a few narrow layers with tied embeddings and biased attention. Its initial weights are drawn so that the two
ingredients of matching in context are there, faintly, from the first step (mimetic initialisation: Trockman and Kolter,
"Mimetic Initialization of Self-Attention Layers", ICML 2023):

* in the lowest layers equal query and key biases in the fast rotary frequencies make attention local, so that a label and the
  colon before a query both gather the text in front of them;
* in the layers above equal query and key projections, in the slow frequencies, make attention prefer positions with similar
  content, wherever they stand;
* in all layers the value and output projections are each other's transposes, so that what is attended to is copied.

Nothing is fixed: training moves every weight. In one trial (4 layers, the tasks' templates only) a model with a default
initialisation was still on the plateau on which it only guesses among the label words it has seen after 832 steps; with this
one it had passed three rungs by 345.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from icl_lens.organism.recipe import Architecture


def build_model(architecture: Architecture, vocabulary: int, end_of_text: int, seed: int) -> LlamaForCausalLM:
    """An untrained model whose weights are drawn with ``seed``."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=architecture.width,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.context,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        attention_bias=True,
        tie_word_embeddings=True,
        initializer_range=architecture.noise,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        nn.init.normal_(model.model.embed_tokens.weight, std=architecture.embedding)
        model.model.norm.weight.fill_(architecture.readout)
        for index, layer in enumerate(model.model.layers):
            _initialise_attention(layer.self_attn, architecture, local=index < architecture.local_layers)
    return model


def _initialise_attention(attention: nn.Module, architecture: Architecture, *, local: bool) -> None:
    """Draws one layer's projections as the module's docstring says."""
    width, heads = architecture.width, architecture.heads
    head_width = width // heads
    # Rotary pair i turns dimensions i and i + head_width / 2 of a head; the first pairs turn fastest.
    pairs = head_width // 2
    fast = torch.zeros(head_width, dtype=torch.bool)  # (head_width,)
    fast[: pairs // 2] = True
    fast[pairs : pairs + pairs // 2] = True
    copy = nn.init.orthogonal_(torch.empty(width, width)) * architecture.copying  # (width, width)
    attention.v_proj.weight.copy_(copy)
    attention.o_proj.weight.copy_(copy.T)
    if local:
        bias = (architecture.locality * fast).repeat(heads)  # (width,)
        attention.q_proj.bias.copy_(bias)
        attention.k_proj.bias.copy_(bias)
    else:
        match = nn.init.orthogonal_(torch.empty(width, width)).view(heads, head_width, width)
        match = (match * ~fast[None, :, None] * architecture.similarity).view(width, width)
        attention.q_proj.weight.add_(match)
        attention.k_proj.weight.add_(match)
