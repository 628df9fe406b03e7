"""Tiny random models of many families, with a vocabulary size that suits any test tokenizer."""

from __future__ import annotations

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    SiglipVisionConfig,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

CONTEXT = 512

FAMILIES = (
    "gpt2",
    "gptj",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "olmo",
    "olmo2",
    "gemma2",
    "gemma3_text",
    "gemma3",  # with its image encoder
    "phi3",
    "opt",
    "starcoder2",
    "gpt_bigcode",
    "codegen",
    "deepseek_v3",
)

# Number of positions that a position attends to in a layer with a sliding window, including its own: family -> layer -> number.
WINDOWS = {
    "mistral": {0: 32, 1: 32, 2: 32},
    "gemma2": {0: 32, 2: 32},
    "gemma3_text": {0: 8, 2: 8},
    "gemma3": {0: 8, 2: 8},
}

# Unsupported families, and the reasons.
_OUT_OF_REACH = (
    "its attention does not pass through transformers' attention interface, so its weights can be neither read nor edited"
)
_NO_PLACE = "its attention modules have no layer index (layer_idx)"
_MORE = "its attention is not plain softmax(QK)V (for example, it has attention sinks or two softmaxes)"
UNSUPPORTED = {
    "mamba": "it has no attention layers",
    "rwkv": _NO_PLACE,
    "gpt_neo": _NO_PLACE,
    "jamba": "it has 1 attention modules for 2 layers; one per layer is needed",
    "bloom": _OUT_OF_REACH,
    "falcon": _OUT_OF_REACH,
    "mpt": _OUT_OF_REACH,
    "gpt_oss": _MORE,
    "diffllama": _MORE,
}


def tiny(family: str, vocabulary: int, seed: int = 0, layers: int = 3, context: int = CONTEXT) -> PreTrainedModel:
    """Create a random model of a family.

    Its weights are large enough that attention is far from uniform and each layer affects the output.
    """
    torch.manual_seed(seed)
    special = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    wide = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        **special,
    }
    narrow = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": context, **special}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    # Every other layer has a window that is shorter than the tests' shortest input.
    gemma3 = {
        **wide,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
    }
    pictures = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    model = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**narrow, **no_dropout)),
        "gptj": lambda: GPTJForCausalLM(GPTJConfig(**narrow, **no_dropout, rotary_dim=4)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**wide)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**wide, num_key_value_heads=2)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**wide, num_key_value_heads=2)),
        # The window is shorter than most prompts, so that it has an effect.
        "mistral": lambda: MistralForCausalLM(MistralConfig(**wide, num_key_value_heads=2, sliding_window=32)),
        "olmo": lambda: OlmoForCausalLM(OlmoConfig(**wide)),
        "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**wide, num_key_value_heads=2)),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**wide, num_key_value_heads=2, head_dim=8, sliding_window=32, attn_logit_softcapping=2.0)
        ),
        "gemma3_text": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**gemma3)),
        "gemma3": lambda: Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=Gemma3TextConfig(**gemma3).to_dict(),
                vision_config=SiglipVisionConfig(**pictures, image_size=28, patch_size=14).to_dict(),
                mm_tokens_per_image=4,
            )
        ),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**wide, num_key_value_heads=2, head_dim=8)),
        "phi3": lambda: Phi3ForCausalLM(Phi3Config(**wide, num_key_value_heads=2)),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                word_embed_proj_dim=32,
                ffn_dim=64,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=context,
                **special,
            )
        ),
        "starcoder2": lambda: Starcoder2ForCausalLM(Starcoder2Config(**wide, num_key_value_heads=2)),
        "gpt_bigcode": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**narrow, multi_query=True)),
        "codegen": lambda: CodeGenForCausalLM(CodeGenConfig(**narrow, rotary_dim=4)),
        "deepseek_v3": lambda: DeepseekV3ForCausalLM(
            DeepseekV3Config(**wide, **latent, **experts, num_key_value_heads=4, n_shared_experts=1, first_k_dense_replace=1)
        ),
    }[family]()
    return _randomise(model)


def unsupported(family: str, vocabulary: int) -> tuple[PreTrainedModel, str]:
    """Create a random model of an unsupported family, and return it with the reason."""
    torch.manual_seed(0)
    small = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide = {**small, "intermediate_size": 32, "num_key_value_heads": 2}
    model = {
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
        "rwkv": lambda: RwkvForCausalLM(RwkvConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2)),
        "gpt_neo": lambda: GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                num_layers=2,
                num_heads=4,
                attention_types=[[["global", "local"], 1]],
                window_size=8,
                max_position_embeddings=CONTEXT,
            )
        ),
        "jamba": lambda: JambaForCausalLM(
            JambaConfig(
                **wide, attn_layer_offset=1, attn_layer_period=2, num_experts=2, mamba_d_state=4, use_mamba_kernels=False
            )
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4)),
        "falcon": lambda: FalconForCausalLM(FalconConfig(**small, new_decoder_architecture=True, num_kv_heads=2, alibi=False)),
        "mpt": lambda: MptForCausalLM(MptConfig(vocab_size=vocabulary, d_model=32, n_layers=2, n_heads=4)),
        "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**wide, head_dim=8, num_local_experts=4)),
        "diffllama": lambda: DiffLlamaForCausalLM(DiffLlamaConfig(**wide)),
    }[family]()
    return _randomise(model), UNSUPPORTED[family]


def _randomise(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)
