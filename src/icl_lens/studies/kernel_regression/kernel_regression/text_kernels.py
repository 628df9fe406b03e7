"""How alike texts are by themselves: cosines of word counts and of sentence embeddings, from which kernels are made.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 2, compares attention with kernel regression (eq. 6)
on sentence embeddings. How a kernel is made of them is not stated; :mod:`icl_lens.studies.kernel_regression.reconstruction`
makes it of cosines. Cosines of TF-IDF vectors are ours: they need no model.
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

# Texts that an encoder reads at once.
_BATCH = 64


def tf_idf_cosines(pairs: Sequence[tuple[str, Sequence[str]]], fitted: Sequence[str]) -> list[np.ndarray]:
    """Cosines of TF-IDF vectors: a word counts as often as it stands in a text, times ln((1 + n) / (1 + df)) + 1.

    Words are runs of letters, digits and underscores, in lower case.

    Args:
        pairs: A query's text and its demonstrations' texts; N of them.
        fitted: The n texts that df, the number of texts with a word, is counted in. A word that none has counts as rarest.

    Returns:
        For each pair the cosines with its demonstrations, shape (D,) each; 0 for a text without words.
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
    """Cosines of sentence embeddings: the mean of an encoder's last hidden states over a text's tokens.

    That is what all-MiniLM-L6-v2 and bert-base-nli-mean-tokens, the paper's two, do. Longer texts are cut, where the folder's
    ``sentence_bert_config.json`` says or where the encoder's positions end.

    Args:
        pairs: As :func:`tf_idf_cosines`.
        folder: The encoder's checkpoint: config.json, safetensors and its tokenizer. Nothing is fetched, no code of it runs.
        device: Where it runs.

    Raises:
        InputError: The folder is none, cannot be loaded, or pools its tokens otherwise.
    """
    texts = list(dict.fromkeys(text for query, demonstrations in pairs for text in (query, *demonstrations)))
    vectors = dict(zip(texts, _embedded(texts, Path(folder), device), strict=True))
    return [np.array([vectors[query] @ vectors[text] for text in demonstrations]) for query, demonstrations in pairs]


@torch.inference_mode()
def _embedded(texts: Sequence[str], folder: Path, device: torch.device | str) -> np.ndarray:
    """Embeddings of length 1, shape (n, d)."""
    _require_mean(folder)
    if any(path.suffix == ".bin" for path in checkpoint_files(folder)):
        raise InputError(f"encoder folder {folder} holds no safetensors, which are the only weights read of an encoder")
    try:
        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        network, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
        )
    except Exception as error:  # transformers and the tokenizers library raise what they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"encoder folder {folder}: it cannot be loaded ({reason})") from error
    # A head that the checkpoint lacks plays no part in the last hidden states.
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
        # Summed in float64, which not every device has.
        states = network(**inputs).last_hidden_state.cpu().double()  # (B, T, d)
        kept = inputs["attention_mask"][..., None].cpu().double()  # (B, T, 1)
        means = torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1).clamp(min=1), dim=-1)  # (B, d)
        for place, vector in zip(places, means.numpy(), strict=True):
            found[place] = vector
    return np.stack(found)


def _require_mean(folder: Path) -> None:
    """Refuse an encoder whose own description says that it takes something else than the mean over tokens."""
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
