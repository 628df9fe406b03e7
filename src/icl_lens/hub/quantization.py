"""Detection of quantised checkpoints, from their small configuration files, before any weights are read or downloaded.

The studies need weights in float32, float16 or bfloat16: they edit attention, decompose logits and differentiate. Checkpoints
of bitsandbytes are supported, because their weights can be dequantised on the CPU and on GPUs
(:mod:`icl_lens.network.quantized`). transformers would load most other quantised checkpoints only with further packages and a
GPU, so they give an error. GGUF files are supported, because they are converted to float32 once
(:mod:`icl_lens.hub.gguf_conversion`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.hub import packages
from icl_lens.short_repr import short_repr

REMEDY = "use the original checkpoint in float32, float16 or bfloat16, or a GGUF file of the model (key gguf in the config)"

PACKAGES = ("bitsandbytes",)
"""Packages that loading a checkpoint of bitsandbytes needs. The extra ``quantized`` contains them."""

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

_KEYS = ("quantization_config", "compression_config")

# Configuration files of checkpoints that AutoGPTQ and AutoAWQ wrote without an entry in config.json.
SEPARATE_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}


def require_float(folder: Path) -> None:
    """Require that a model folder contains float weights, according to its configuration files.

    An unreadable config.json passes: loading the model reports it.

    Raises:
        InputError: The weights are quantised, or their description is invalid.
    """
    require_supported(folder)
    if bitsandbytes_bits(folder) is not None:
        raise InputError(f"model folder {folder}: {_fault(*_entry(_config(_content(folder))))}; {REMEDY}")


def require_supported(folder: Path) -> None:
    """Require that a model folder contains float weights or weights that bitsandbytes quantised.

    An unreadable config.json passes: loading the model reports it.

    Raises:
        InputError: The weights are quantised by another method, or their description is invalid.
    """
    require_supported_config(_content(folder), f"model folder {folder}")
    for name, method in SEPARATE_FILES.items():
        if (folder / name).is_file():
            raise InputError(f"model folder {folder}: {name} describes {method} weights, which are not supported; {REMEDY}")


def require_supported_config(content: bytes, title: str) -> None:
    """Require that a config.json describes float weights or weights that bitsandbytes quantised.

    Args:
        content: The file's content. Content that is not a JSON object passes: loading the model reports it.
        title: What the file belongs to, for error messages.

    Raises:
        InputError: See :func:`require_supported`.
    """
    found = _entry(_config(content))
    if found is not None and not (found[0] in _KEYS and _bits(found[1]) is not None):
        raise InputError(f"{title}: {_fault(*found)}; {REMEDY}")


def bitsandbytes_bits(folder: Path) -> int | None:
    """Return the number of bits of weights that bitsandbytes quantised, 4 or 8; None for other weights."""
    found = _entry(_config(_content(folder)))
    return _bits(found[1]) if found is not None and found[0] in _KEYS else None


def require_packages(folder: Path) -> None:
    """Require the optional packages that the weights of a model folder need.

    Raises:
        InputError: A package is not installed. The message contains the installation command.
    """
    bits = bitsandbytes_bits(folder)
    if bits is not None:
        packages.require(PACKAGES, f"model folder {folder}: its {bits}-bit weights need", "quantized")


def _content(folder: Path) -> bytes:
    try:
        return (folder / "config.json").read_bytes()
    except OSError:
        return b""


def _config(content: bytes) -> dict[str, Any]:
    try:
        config = json_text.loads(content)
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _entry(config: dict[str, Any]) -> tuple[str, Any] | None:
    """Return the key and value that describe quantised weights, in the config or in its text_config; None for float weights."""
    text_config = config.get("text_config")
    for section in (config, *([text_config] if isinstance(text_config, dict) else [])):
        for key in _KEYS:
            if section.get(key) is not None:
                return key, section[key]
        if isinstance(section.get("quantization"), dict):  # MLX writes only this key in older checkpoints
            return "quantization", {"quant_method": "mlx", **section["quantization"]}
    return None


def _bits(entry: Any) -> int | None:
    """Return 4 or 8 for an entry that bitsandbytes wrote, and None for any other."""
    if not isinstance(entry, dict) or _METHODS.get(str(_method(entry))) != "bitsandbytes":
        return None
    return 4 if entry.get("load_in_4bit") else 8 if entry.get("load_in_8bit") else None


def _method(entry: dict[str, Any]) -> Any:
    method = entry.get("quant_method")
    if method is None and (entry.get("load_in_4bit") or entry.get("load_in_8bit")):
        return "bitsandbytes"  # older files lack quant_method
    return method


def _fault(key: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"{key} in config.json must be a mapping with quant_method, got {short_repr(entry)}"
    method = _method(entry)
    if method is None:
        return f"{key} in config.json has no quant_method, so the format of the weights is unknown"
    name = _METHODS.get(str(method), f"quant_method {short_repr(method)}")
    bits = 4 if entry.get("load_in_4bit") else 8 if entry.get("load_in_8bit") else entry.get("bits", entry.get("w_bit"))
    size = f", {bits} bits" if isinstance(bits, int) else ""
    return f"config.json describes quantised weights ({name}{size}), which are not supported"
