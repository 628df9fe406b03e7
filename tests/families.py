"""Tiny random models of several families, with vocabularies that any test tokenizer fits."""

from __future__ import annotations

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CONTEXT = 512

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "olmo", "gemma2")


def tiny(family: str, vocabulary: int, seed: int = 0, layers: int = 3, context: int = CONTEXT) -> PreTrainedModel:
    """A random model: weights large enough that attention is far from uniform and every layer matters."""
    torch.manual_seed(seed)
    wide = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
    }
    narrow = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": context}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**narrow, **no_dropout)),
        "gptj": lambda: GPTJForCausalLM(GPTJConfig(**narrow, **no_dropout, rotary_dim=4)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**wide)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**wide, num_key_value_heads=2)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**wide, num_key_value_heads=2)),
        # A window shorter than most prompts, so that it matters.
        "mistral": lambda: MistralForCausalLM(MistralConfig(**wide, num_key_value_heads=2, sliding_window=32)),
        "olmo": lambda: OlmoForCausalLM(OlmoConfig(**wide)),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**wide, num_key_value_heads=2, head_dim=8, sliding_window=32, attn_logit_softcapping=2.0)
        ),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**wide, num_key_value_heads=2, head_dim=8)),
    }[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)
