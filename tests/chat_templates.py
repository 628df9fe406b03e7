"""Tokenizers with chat templates of real families, written from the token formats that their model cards document."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from .conftest import byte_level, llama_like, sentencepiece_like

# A condition that is true if the roles of the turns do not alternate, starting with the user.
_WRONG_ROLE = "(message['role'] == 'user') != (loop.index0 is even)"
_REJECT = "{% if " + _WRONG_ROLE + " %}{{ raise_exception('the roles must alternate: user, assistant') }}{% endif %}"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# BOS before each turn of the user, a space on each side of a content, no generation prompt, strips.
LLAMA_2 = (
    "{% for message in messages %}" + _REJECT + "{% if message.role == 'user' %}"
    "{{ bos_token }}[INST] {{ message.content.strip() }} [/INST]"
    "{% else %} {{ message.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
# BOS once, control tokens around the role, strips.
LLAMA_3 = (
    "{% for message in messages %}{{ bos_token if loop.first else '' }}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# BOS once, no system role, the assistant is called model, strips.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}" + _REJECT + "<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# BOS once, the space before an answer but none before [/INST], no generation prompt.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + _REJECT + "{% if message.role == 'user' %}"
    "[INST] {{ message.content }}[/INST]{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# A generation prompt that ends with a space, as in templates without control tokens; the answers end with EOS.
VICUNA = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}USER: {{ message.content }} "
    "{% else %}ASSISTANT: {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

_ANGLES = {"bos_token": "<s>", "eos_token": "</s>"}
_FAMILIES = {
    "chatml": (byte_level, {}, CHATML, ["<|im_start|>", "<|im_end|>"]),
    "llama-2": (llama_like, {}, LLAMA_2, []),
    "llama-3": (
        byte_level,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        LLAMA_3,
        ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "gemma": (sentencepiece_like, {}, GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
    "mistral": (llama_like, {"metaspace": True}, MISTRAL, ["[INST]", "[/INST]"]),
    "vicuna": (byte_level, _ANGLES, VICUNA, []),
}
FAMILIES = tuple(_FAMILIES)
"""Names of the families."""


def chat_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a small tokenizer with the control tokens and the chat template of a family."""
    make, options, template, control = _FAMILIES[family]
    tokenizer = make(**options)
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    tokenizer.chat_template = template
    return tokenizer
