"""Predictions with compressed demonstrations, which keep only a few keys and values.

*Label Words are Anchors*, section 3.2 (Table 2). Each method is compared with the full run of the same prompt in the same job:

    Text_anchor     a separate text with the template and label words of the demonstrations, without their texts
    Hidden_anchor   the keys and values, in all layers, of the same tokens within the full demonstrations
                    (:func:`icl_lens.studies.anchors.compressed_demonstrations.kept_positions`)
    Hidden_random   the same positions, with the first token of each label word replaced by a random token of its
                    demonstration's text; each draw has new random tokens, equal for all prompts with the same demonstrations

Only the first token of a label word is replaced; its further tokens are kept, as in the released code. With ``label_anchor:
last``, only the last token is replaced, and with ``all``, as many different random tokens replace all tokens. The released
``compress_top.py`` never clears its mask, so its draw n keeps the random tokens of all draws up to n. The setting
``accumulate`` reproduces this.

The comparison covers the predicted label and the sets of the 5 most likely tokens. Hidden_random-top, the draw with the highest
label loyalty, is selected in :mod:`icl_lens.studies.anchors.compression.summary`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError
from icl_lens.models import batching
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores, predictive_logits
from icl_lens.progress import Runs
from icl_lens.prompts import plain_text
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.anchors.compression.study import OWN, WORDS, Condition, Settings, conditions


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compare the predictions of each method for each prompt with the full run of the prompt.

    Args:
        prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        model: Any model with a KV cache that supports kept positions.

    Raises:
        InputError: A prompt has no demonstration, a demonstration has no token to draw, or the model's family does not support
            compression.

    Returns:
        One row per prompt and condition, in this order, with the full run first: prompt_id, method, draw (always 0 except for
        hidden_random), positions, prediction (class index), correct, label_agrees, word_jaccard_5.
    """
    settings = settings or Settings()
    planned = conditions(settings)
    groups = compressed_demonstrations.group_by_demonstrations(prompts)
    compressed_demonstrations.require_compressible(model)
    all_conditions = [Condition("full", 0, OWN), *planned]
    predictions = np.empty((len(all_conditions), len(prompts)), dtype=np.int64)  # (C, N)
    top = np.empty((len(all_conditions), len(prompts), min(WORDS, len(model.tokenizer))), dtype=np.int64)  # (C, N, 5)
    report = Runs(progress, len(all_conditions))

    def record(number: int, batch: Batch, logits: Tensor) -> None:
        predictions[number, batch.index] = class_scores(batch, logits).argmax(-1).cpu().numpy()
        top[number, batch.index] = logits[: len(batch.index)].topk(top.shape[-1], dim=-1).indices.cpu().numpy()
        report(len(batch.prompts))

    for number, batch_prompts in enumerate((prompts, [text_anchor(p, model.tokenizer) for p in prompts])):
        for batch in batching.shared_batches(model, batch_prompts, batch_tokens, score=True):
            record(number, batch, predictive_logits(model, batch))
    for index in groups:
        if not batching.needs_any(prompts, index):
            continue
        first = prompts[index[0]]
        full = compressed_demonstrations.read(model, first)
        computed: dict[tuple[bytes, str], int] = {}  # kept positions and positions of the query -> condition
        for number, condition in enumerate(all_conditions[2:], 2):
            kept = positions_to_keep(first, condition, settings)  # (K,)
            same = computed.setdefault((kept.tobytes(), condition.positions), number)
            if same != number:  # two draws of the same random tokens
                predictions[number, index], top[number, index] = predictions[same, index], top[same, index]
                report(len(index))
                continue
            compressed = compressed_demonstrations.keep(full, first.ids[: compressed_demonstrations.query_start(first)], kept)
            for batch in compressed_demonstrations.batches(
                model, prompts, batch_tokens, compressed, condition.positions == "restarted", index
            ):
                record(number, batch, compressed_demonstrations.query_logits(model, batch, compressed))
    overlaps = np.stack([jaccard(condition_top, top[0]) for condition_top in top])  # (C, N)
    columns = {name: np.tile([getattr(c, name) for c in all_conditions], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(all_conditions)),
            **columns,
            "prediction": predictions.T.ravel(),
            "correct": (predictions == [p.gold for p in prompts]).T.ravel(),
            "label_agrees": (predictions == predictions[0]).T.ravel(),
            f"word_jaccard_{WORDS}": overlaps.T.ravel(),
        }
    )


def positions_to_keep(prompt: TokenizedPrompt, condition: Condition, settings: Settings) -> np.ndarray:
    """Return the positions that a condition keeps, ascending, shape (K,).

    Raises:
        InputError: A demonstration has no token to draw.
    """
    anchored = compressed_demonstrations.kept_positions(prompt)
    if condition.method == "hidden_anchor":
        return anchored
    first = 0 if settings.accumulate else condition.draw
    drawn = [random_text_positions(prompt, draw) for draw in range(first, condition.draw + 1)]
    return np.union1d(np.setdiff1d(anchored, prompt.anchors), np.concatenate(drawn))


def random_text_positions(prompt: TokenizedPrompt, draw: int) -> np.ndarray:
    """Return random positions of each demonstration's text, as many as its label word has anchors, shape (A,).

    A text with fewer tokens than that gives all its positions.

    The positions depend only on the prompt's seed, its demonstrations and the draw, because the compressed demonstrations are
    shared. They are therefore not independent for the prompts of a seed: an interval over prompts keeps them fixed, and only
    an interval over demonstration sets covers other draws.

    Raises:
        InputError: A demonstration has no token to draw.
    """
    digest = int.from_bytes(hashlib.sha256(prompt.ids[: compressed_demonstrations.query_start(prompt)].tobytes()).digest()[:8])
    generator = np.random.default_rng([prompt.seed, draw, digest])
    required = np.bincount(prompt.anchor_demonstrations, minlength=len(prompt.demo_labels)).tolist()  # D numbers
    found: list[int] = []
    texts = compressed_demonstrations.text_positions(prompt)
    for number, (positions, count) in enumerate(zip(texts, required, strict=True), 1):
        if not len(positions):
            raise InputError(
                f"prompt {prompt.prompt_id}: the text of demonstration {number} has no token to draw; remove this text from "
                "the data"
            )
        if count == 1:
            found.append(generator.choice(positions))
        else:
            found += generator.choice(positions, min(count, len(positions)), replace=False).tolist()
    return np.array(found)


def text_anchor(prompt: TokenizedPrompt, tokenizer: PreTrainedTokenizerBase) -> TokenizedPrompt:
    """Remove the demonstrations' texts and the spaces before them from a prompt ("Review:\\nSentiment: Positive")."""
    text, label_spans, last = "", [], 0
    for (start, end), (label, label_end) in zip(prompt.text_spans.tolist(), prompt.label_spans.tolist(), strict=True):
        text += prompt.text[last:start].rstrip(" ")
        label_spans.append((len(text) + label - end, len(text) + label_end - end))
        text += prompt.text[end:label_end]
        last = label_end
    text += prompt.text[last:]
    query = prompt.query_span + len(text) - len(prompt.text)  # [start, end)
    (encoded,) = plain_text.encode_batch([f"prompt {prompt.prompt_id}"], [text], [[query.tolist()]], tokenizer)
    # Keep a BOS token that the tokenizer prepended, that is, one that is not part of the text.
    bos = prompt.ids[:1] if prompt.ids[0] == tokenizer.bos_token_id and prompt.spans[0, 1] == 0 else prompt.ids[:0]
    ends = np.array([0] * len(bos) + [end for _, end in encoded.offsets])  # (T,)
    label_tokens = np.array([[np.argmax(ends > start), np.argmax(ends >= end) + 1] for start, end in label_spans])  # (D, 2)
    return replace(
        prompt,
        ids=np.concatenate([bos, np.array(encoded.ids, dtype=np.int64)]),
        anchors=label_tokens[:, 0],  # only their places relative to the query matter here
        label_tokens=label_tokens,
        text=text,
    )
