"""Detection of quantised checkpoints, from their small configuration files, before any weights are read or downloaded.

The studies need weights in float32, float16 or bfloat16: they edit attention, decompose logits and differentiate. transformers
would load most quantised checkpoints only with further packages and a GPU, so they give an error. GGUF files are
supported, because they are converted to float32 once (:mod:`icl_lens.hub.gguf_conversion`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.short_repr import short_repr

REMEDY = "use the original checkpoint in float32, float16 or bfloat16, or a GGUF file of the model (key gguf in the config)"

# The usual names of the most common methods. Other methods are named by their quant_method.
_METHODS = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "mlx": "MLX",
    "mxfp4": "MXFP4",
}

# Configuration files of checkpoints that AutoGPTQ and AutoAWQ wrote without an entry in config.json.
SEPARATE_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}


def require_float(folder: Path) -> None:
    """Require that a model folder contains float weights, according to its configuration files.

    An unreadable config.json passes: loading the model reports it.

    Raises:
        InputError: The weights are quantised, or their description is invalid.
    """
    try:
        content = (folder / "config.json").read_bytes()
    except OSError:
        return
    require_float_config(content, f"model folder {folder}")
    for name, method in SEPARATE_FILES.items():
        if (folder / name).is_file():
            raise InputError(f"model folder {folder}: {name} describes {method} weights, which are not supported; {REMEDY}")


def require_float_config(content: bytes, title: str) -> None:
    """Require that a config.json describes float weights.

    Args:
        content: The file's content. Content that is not a JSON object passes: loading the model reports it.
        title: What the file belongs to, for error messages.

    Raises:
        InputError: See :func:`require_float`.
    """
    try:
        config = json_text.loads(content)
    except ValueError:
        return
    if not isinstance(config, dict):
        return
    text_config = config.get("text_config")
    for section in (config, *([text_config] if isinstance(text_config, dict) else [])):
        for key in ("quantization_config", "compression_config"):
            if section.get(key) is not None:
                raise InputError(f"{title}: {_fault(key, section[key])}; {REMEDY}")
        if isinstance(section.get("quantization"), dict):  # MLX writes only this key in older checkpoints
            raise InputError(f"{title}: {_fault('quantization', {'quant_method': 'mlx', **section['quantization']})}; {REMEDY}")


def _fault(key: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"{key} in config.json must be a mapping with quant_method, got {short_repr(entry)}"
    method = entry.get("quant_method")
    if method is None and (entry.get("load_in_4bit") or entry.get("load_in_8bit")):
        method = "bitsandbytes"  # older files lack quant_method
    if method is None:
        return f"{key} in config.json has no quant_method, so the format of the weights is unknown"
    name = _METHODS.get(str(method), f"quant_method {short_repr(method)}")
    bits = 4 if entry.get("load_in_4bit") else 8 if entry.get("load_in_8bit") else entry.get("bits", entry.get("w_bit"))
    size = f", {bits} bits" if isinstance(bits, int) else ""
    return f"config.json describes quantised weights ({name}{size}), which are not supported"
