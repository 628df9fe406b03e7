"""Similarity of single texts: cosines of word counts and of sentence embeddings, on which the text kernels are based.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 2, compares attention with kernel regression (eq. 6)
on sentence embeddings. The paper does not say how it computes a kernel from them;
:mod:`icl_lens.studies.kernel_regression.reconstruction` computes it from cosines. The cosines of TF-IDF vectors are our
addition; :mod:`icl_lens.statistics.text_similarity` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.hub import quantization
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.prompts.plain_text import control_tokens
from icl_lens.statistics.text_similarity import distinct_texts

# Number of texts per batch of an encoder.
_BATCH = 64


def encoder_cosines(
    pairs: Sequence[tuple[str, Sequence[str]]], folder: Path | str, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """Compute cosines of sentence embeddings: the mean of an encoder's last hidden states over a text's tokens.

    The paper's two encoders, all-MiniLM-L6-v2 and bert-base-nli-mean-tokens, use this mean. Longer texts are truncated to the
    length in the folder's ``sentence_bert_config.json`` or to the encoder's maximum number of positions.

    Args:
        pairs: See :func:`icl_lens.statistics.text_similarity.tf_idf_cosines`.
        folder: Folder with the encoder's checkpoint: config.json, safetensors and the tokenizer. Nothing is downloaded, and no
            code from the folder is executed.
        device: Device of the encoder.

    Raises:
        InputError: The path is not a folder, cannot be loaded, or uses another pooling.
    """
    texts = distinct_texts(pairs)
    vectors = dict(zip(texts, _embed(texts, Path(folder), device), strict=True))
    return [np.array([vectors[query] @ vectors[text] for text in demonstrations]) for query, demonstrations in pairs]


@torch.inference_mode()
def _embed(texts: Sequence[str], folder: Path, device: torch.device | str) -> np.ndarray:
    """Compute embeddings of length 1, shape (n, d)."""
    _require_mean_pooling(folder)
    quantization.require_float(folder)
    if any(path.suffix == ".bin" for path in checkpoint_files(folder)):
        raise InputError(
            f"encoder folder {folder} contains no safetensors weights; convert the checkpoint to safetensors, the only "
            "supported format"
        )
    try:
        options = {"local_files_only": True, "trust_remote_code": False}
        # Padding on the left would move the absolute positions of a text by an amount that depends on its batch.
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", **options)
        network, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # transformers and tokenizers raise many exception types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"encoder folder {folder} cannot be loaded: {reason}") from error
    # A pooler that is missing from the checkpoint does not affect the last hidden states.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(
            f"encoder folder {folder}: {len(missing)} weights are missing from the checkpoint, for example {missing[0]}; "
            "use a complete checkpoint"
        )
    network = network.to(device).eval()
    if tokenizer.pad_token is None:
        raise InputError(
            f"encoder folder {folder}: the tokenizer has no padding token, so texts cannot be batched; use an encoder with "
            "a padding token"
        )
    max_length = _max_length(folder, min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", 512)))
    embeddings: list[np.ndarray] = [np.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), _BATCH):
        indices = order[start : start + _BATCH]
        batch_texts = [texts[i] for i in indices]
        # The tokens that the tokenizer adds are control tokens. The same characters in a text are plain text.
        layout = {"padding": True, "truncation": True, "max_length": max_length, "split_special_tokens": True}
        inputs = tokenizer(batch_texts, return_tensors="pt", return_special_tokens_mask=True, **layout)
        added = inputs.pop("special_tokens_mask").bool()  # (B, T)
        control = sorted(control_tokens(tokenizer).keys() - {tokenizer.unk_token_id})
        found = inputs["input_ids"][torch.isin(inputs["input_ids"], torch.tensor(control, dtype=torch.int64)) & ~added]
        if len(found):
            raise InputError(
                f"encoder folder {folder}: {tokenizer.decode(found[:1])!r} cannot be tokenized as plain text; remove it from "
                "the data"
            )
        inputs = inputs.to(device)
        # The sum is in float64, which some devices do not support, so it runs on the CPU.
        states = network(**inputs).last_hidden_state.cpu().double()  # (B, T, d)
        mask = inputs["attention_mask"][..., None].cpu().double()  # (B, T, 1)
        means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)  # (B, d)
        for index, vector in zip(indices, means.numpy(), strict=True):
            embeddings[index] = vector
    return np.stack(embeddings)


def _require_mean_pooling(folder: Path) -> None:
    """Raise an error if the encoder's own configuration selects a pooling other than the mean over tokens."""
    path = folder / "1_Pooling" / "config.json"
    if path.is_file():
        modes = {name for name, selected in _read_json(path).items() if name.startswith("pooling_mode") and selected is True}
        if modes - {"pooling_mode_mean_tokens"}:
            raise InputError(
                f"encoder folder {folder} uses the pooling {', '.join(sorted(modes))}, but only the mean over tokens is "
                "supported; use another encoder"
            )


def _max_length(folder: Path, positions: int) -> int:
    path = folder / "sentence_bert_config.json"
    max_length = _read_json(path).get("max_seq_length") if path.is_file() else None
    return min(positions, max_length) if isinstance(max_length, int) and max_length > 0 else positions


def _read_json(path: Path) -> dict:
    try:
        description = json_text.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON; it must be the JSON description of an encoder") from error
    if not isinstance(description, dict):
        raise InputError(f"{path} must contain a JSON object, as the description of an encoder")
    return description
