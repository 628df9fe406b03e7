"""Similarity of single texts: cosines of word counts and of sentence embeddings, on which the text kernels are based.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 2, compares attention with kernel regression (eq. 6)
on sentence embeddings. The paper does not say how it computes a kernel from them;
:mod:`icl_lens.studies.kernel_regression.reconstruction` computes it from cosines. The cosines of TF-IDF vectors are our
addition; they need no model.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_files

# Number of texts per batch of an encoder.
_BATCH = 64


def tf_idf_cosines(pairs: Sequence[tuple[str, Sequence[str]]], fitted: Sequence[str]) -> list[np.ndarray]:
    """Compute cosines of TF-IDF vectors: the weight of a word is its count in the text times ln((1 + n) / (1 + df)) + 1.

    Words are runs of letters, digits and underscores, in lower case.

    Args:
        pairs: N pairs of a query's text and its demonstrations' texts.
        fitted: The n texts in which df, the number of texts with a word, is counted. A word that is in none of them has df = 0.

    Returns:
        For each pair, the cosines with its demonstrations, shape (D,) each; 0 for a text without words.
    """
    frequency = Counter(word for text in fitted for word in set(_words(text)))
    known: dict[str, Mapping[str, float]] = {}

    def vector(text: str) -> Mapping[str, float]:
        if text not in known:
            weights = {
                word: count * (math.log((1 + len(fitted)) / (1 + frequency[word])) + 1)
                for word, count in Counter(_words(text)).items()
            }
            length = math.sqrt(sum(weight**2 for weight in weights.values()))
            known[text] = {word: weight / length for word, weight in weights.items()}
        return known[text]

    def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
        return sum(weight * other[word] for word, weight in one.items() if word in other)

    return [np.array([cosine(vector(query), vector(text)) for text in texts], dtype=float) for query, texts in pairs]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def encoder_cosines(
    pairs: Sequence[tuple[str, Sequence[str]]], folder: Path | str, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """Compute cosines of sentence embeddings: the mean of an encoder's last hidden states over a text's tokens.

    The paper's two encoders, all-MiniLM-L6-v2 and bert-base-nli-mean-tokens, use this mean. Longer texts are truncated to the
    length in the folder's ``sentence_bert_config.json`` or to the encoder's maximum number of positions.

    Args:
        pairs: See :func:`tf_idf_cosines`.
        folder: Folder with the encoder's checkpoint: config.json, safetensors and the tokenizer. Nothing is downloaded, and no
            code from the folder is executed.
        device: Device of the encoder.

    Raises:
        InputError: The path is not a folder, cannot be loaded, or uses another pooling.
    """
    texts = list(dict.fromkeys(text for query, demonstrations in pairs for text in (query, *demonstrations)))
    vectors = dict(zip(texts, _embedded(texts, Path(folder), device), strict=True))
    return [np.array([vectors[query] @ vectors[text] for text in demonstrations]) for query, demonstrations in pairs]


@torch.inference_mode()
def _embedded(texts: Sequence[str], folder: Path, device: torch.device | str) -> np.ndarray:
    """Compute embeddings of length 1, shape (n, d)."""
    _require_mean(folder)
    if any(path.suffix == ".bin" for path in checkpoint_files(folder)):
        raise InputError(f"encoder folder {folder} holds no safetensors, which are the only weights read of an encoder")
    try:
        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        network, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
        )
    except Exception as error:  # transformers and tokenizers raise many exception types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"encoder folder {folder}: it cannot be loaded ({reason})") from error
    # A pooler that is missing from the checkpoint does not affect the last hidden states.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(f"encoder folder {folder}: the checkpoint lacks {len(missing)} weights, {missing[0]} among them")
    network = network.to(device).eval()
    if tokenizer.pad_token is None:
        raise InputError(f"encoder folder {folder}: its tokenizer has no padding token, so texts cannot be read side by side")
    longest = _longest(folder, min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", 512)))
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        given = [texts[i] for i in places]
        inputs = tokenizer(given, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        # The sum is in float64, which some devices do not support, so it runs on the CPU.
        states = network(**inputs).last_hidden_state.cpu().double()  # (B, T, d)
        kept = inputs["attention_mask"][..., None].cpu().double()  # (B, T, 1)
        means = torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1).clamp(min=1), dim=-1)  # (B, d)
        for place, vector in zip(places, means.numpy(), strict=True):
            found[place] = vector
    return np.stack(found)


def _require_mean(folder: Path) -> None:
    """Raise an error if the encoder's own configuration selects a pooling other than the mean over tokens."""
    description = folder / "1_Pooling" / "config.json"
    if description.is_file():
        modes = {name for name, chosen in _described(description).items() if name.startswith("pooling_mode") and chosen is True}
        if modes - {"pooling_mode_mean_tokens"}:
            raise InputError(
                f"encoder folder {folder}: it pools by {', '.join(sorted(modes))}; only the mean over tokens is read"
            )


def _longest(folder: Path, positions: int) -> int:
    description = folder / "sentence_bert_config.json"
    own = _described(description).get("max_seq_length") if description.is_file() else None
    return min(positions, own) if isinstance(own, int) and own > 0 else positions


def _described(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not JSON, as an encoder's description is") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not an encoder's description")
    return found
