"""Sizes of the configured models, read from their files without torch, or known before a model is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from icl_lens import json_text
from icl_lens.config.keys import Config, Model
from icl_lens.errors import InputError
from icl_lens.hub import gguf_files


class Size(NamedTuple):
    """Size of a model.

    Attributes:
        parameters: The number of parameters.
        layers: The number of layers, L.
        download: The bytes to download; 0 if the model is available locally.
        width: Width of the hidden states.
        vocabulary: Number of logits per position, V.
        heads: Query heads, H.
        key_heads: Key heads, H_kv.
        head_width: Width of one head, d.
        feed_forward: Width of the feed-forward layers.
        tied: Whether the embeddings are also the vocabulary matrix.
    """

    parameters: int
    layers: int
    download: int
    width: int
    vocabulary: int
    heads: int
    key_heads: int
    head_width: int
    feed_forward: int
    tied: bool

    @property
    def body(self) -> int:
        """Number of parameters of the layers, without embeddings and vocabulary matrix; at least one."""
        return max(1, self.parameters - (1 if self.tied else 2) * self.width * self.vocabulary)

    @property
    def outputs(self) -> int:
        """Outputs of the linear layers of one layer per token, as in :class:`icl_lens.network.memory.Sizes`."""
        attention = (self.heads + 2 * self.key_heads) * self.head_width
        parameters = self.width * (attention + self.heads * self.head_width)
        # A gated feed-forward layer has three matrices, another one has two.
        gated = self.body / self.layers - parameters > 2.5 * self.width * self.feed_forward
        return attention + 2 * self.width + (2 if gated else 1) * self.feed_forward


# Sizes of Hub models, for estimates before they are downloaded. A parameter takes 4 bytes in the files of GPT2-XL and GPT-J,
# and 2 bytes in those of the Llama models.
SIZES: dict[str, Size] = {
    "openai-community/gpt2-xl": Size(1_557_611_200, 48, 4 * 1_557_611_200, 1600, 50257, 25, 25, 64, 6400, True),
    "EleutherAI/gpt-j-6b": Size(6_050_882_784, 28, 4 * 6_050_882_784, 4096, 50400, 16, 16, 256, 16384, False),
    "huggyllama/llama-30b": Size(32_528_943_616, 60, 2 * 32_528_943_616, 6656, 32000, 52, 52, 128, 17920, False),
    "meta-llama/Llama-2-7b-hf": Size(6_738_415_616, 32, 2 * 6_738_415_616, 4096, 32000, 32, 32, 128, 11008, False),
    "meta-llama/Llama-2-13b-hf": Size(13_015_864_320, 40, 2 * 13_015_864_320, 5120, 32000, 40, 40, 128, 13824, False),
    "meta-llama/Llama-2-70b-hf": Size(68_976_648_192, 80, 2 * 68_976_648_192, 8192, 32000, 64, 8, 128, 28672, False),
    "mistralai/Mistral-7B-Instruct-v0.1": Size(7_241_732_096, 32, 2 * 7_241_732_096, 4096, 32000, 32, 8, 128, 14336, False),
    "meta-llama/Meta-Llama-3-8B": Size(8_030_261_248, 32, 2 * 8_030_261_248, 4096, 128256, 32, 8, 128, 14336, False),
}


def size(config: Config, model: Model) -> Size:
    """Return the size of a model, from its files or, before it is downloaded, from :data:`SIZES`.

    Raises:
        InputError: The model is not available locally and its size is unknown.
    """
    folder = Path(model.folder(config.downloads))
    if weights := sorted(folder.glob("*.safetensors")):
        from safetensors import SafetensorError

        try:
            return _of_files(tuple(weights), tuple(path.stat().st_mtime_ns for path in (folder / "config.json", *weights)))
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"model {model.name}: {folder} is not a complete checkpoint; fetch or copy it again") from error
    if model.gguf is not None and model.hub is None:
        header = gguf_files.check(model.gguf)
        if header.layers is not None:
            return _guess(header.parameters, header.layers)
    if model.gguf is None and model.hub in SIZES:
        downloaded = any(folder.glob("*.bin"))
        return SIZES[model.hub]._replace(download=0) if downloaded else SIZES[model.hub]
    raise InputError(
        f"model {model.name}: the size is unknown until the model is fetched; fetch it, or plan without this model"
    )


@cache
def _of_files(weights: tuple[Path, ...], stamps: tuple[int, ...]) -> Size:
    """Read a checkpoint's size from its files, which is cached as long as the files have the same time stamps."""
    shapes: dict[str, list[int]] = {}
    for path in weights:
        shapes |= _shapes(path)
    shape = json_text.loads((weights[0].parent / "config.json").read_text(encoding="utf-8"))
    shape = {**shape, **(shape.get("text_config") or {})}
    layers = int(_first(shape, "num_hidden_layers", "n_layer"))
    parameters = _parameters(shapes)
    # The file stores tied embeddings once. They are the matrix with the most rows.
    tables = [sizes for sizes in shapes.values() if len(sizes) == 2]
    vocabulary, width = max(tables, default=[0, 0])
    width = int(_first(shape, "hidden_size", "n_embd", "d_model", default=width))
    heads = int(_first(shape, "num_attention_heads", "n_head", default=max(1, width // 64)))
    vocabulary = int(_first(shape, "vocab_size", default=vocabulary))
    return Size(
        parameters,
        layers,
        0,
        width,
        vocabulary,
        heads,
        int(_first(shape, "num_key_value_heads", default=heads)),
        int(_first(shape, "head_dim", default=max(1, width // heads))),
        int(_first(shape, "intermediate_size", "n_inner", default=4 * width)),
        sum(sizes == [vocabulary, width] for sizes in tables) < 2,
    )


def _parameters(shapes: Mapping[str, list[int]]) -> int:
    """Return the number of weights in a checkpoint.

    bitsandbytes packs two weights of 4 bits into a byte, and stores the constants of a quantised weight next to it: with 4 bits
    ``weight.absmax``, ``weight.quant_state.*`` and others, with 8 bits ``SCB`` and ``weight_format``.
    """
    packed = {name.partition(".quant_state.")[0] for name in shapes if ".quant_state." in name}
    constants = ("SCB", "weight_format")
    return sum(
        (2 if name in packed else 1) * prod(sizes)
        for name, sizes in shapes.items()
        if name.rpartition(".")[2] not in constants and not any(name.startswith(f"{weight}.") for weight in packed)
    )


def _first(shape: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """Return the value of the first name that is set.

    Raises:
        KeyError: None is set, and there is no default.
    """
    value = next((shape[name] for name in names if shape.get(name) is not None), default)
    if value is None:
        raise KeyError(names[0])
    return value


def _shapes(file: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - not a mapping


def _guess(parameters: int, layers: int) -> Size:
    """Return the size of a model of which only these two numbers are known, with the shape of a GPT-2."""
    width = max(64, round((parameters / (12 * layers)) ** 0.5 / 64) * 64)
    heads = width // 64
    vocabulary = max(1, min(50_257, (parameters - 12 * layers * width**2) // width))
    return Size(parameters, layers, 0, width, vocabulary, heads, heads, 64, 4 * width, True)
