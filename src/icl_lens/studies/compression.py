"""Compression: does the prediction survive when of the demonstrations only a few keys and values are kept?

*Label Words are Anchors*, section 3.2 (Table 2). Against the full run of the same prompt, made in the same job:

    Text_anchor     the demonstrations' template and label words without their texts, as text of its own
    Hidden_anchor   the keys and values, in all layers, of the same tokens within the whole demonstrations
                    (:func:`icl_lens.compression.kept_positions`)
    Hidden_random   the same positions, but in place of each label word's first token a random token of its demonstration's
                    text; drawn anew for each draw, the same for all prompts that share their demonstrations

A label word's further tokens stay where its first is replaced, as released. The released ``compress_top.py`` never clears its
mask, so that its draw n has the random tokens of all draws up to n: ``accumulate``.

Compared are the predicted label and the sets of the 5 likeliest tokens. Hidden_random-top, the draw with the highest label
loyalty, is the tables' business (:mod:`icl_lens.compression_summary`).
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

from icl_lens import compression, models
from icl_lens.compression_plan import OWN, WORDS, Condition, Settings, conditions
from icl_lens.errors import InputError
from icl_lens.loyalty import jaccard
from icl_lens.models import Batch, LanguageModel
from icl_lens.positions import TokenizedPrompt
from icl_lens.progress import Runs


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predictions for every prompt by every method, against the prompt's full run.

    Args:
        model: Any model whose keys and values can be kept.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told how many more prompts are done, all conditions counted.
        settings: See :class:`Settings`.

    Raises:
        InputError: A prompt has no demonstration, or one without a token to draw, or the model's family cannot do it.

    Returns:
        One row a prompt and condition, in that order, the full run first: prompt_id, method, draw (0 but for hidden_random),
        positions, prediction (class index), correct, label_agrees, word_jaccard_5.
    """
    settings = settings or Settings()
    planned = conditions(settings)
    groups = alike(prompts)
    compression.require_compressible(model)
    shown = [Condition("full", 0, OWN), *planned]
    predictions = np.empty((len(shown), len(prompts)), dtype=np.int64)  # (C, N)
    top = np.empty((len(shown), len(prompts), min(WORDS, len(model.tokenizer))), dtype=np.int64)  # (C, N, 5)
    report = Runs(progress, len(shown))

    def note(number: int, batch: Batch, logits: Tensor) -> None:
        predictions[number, batch.index] = logits.gather(1, batch.label_ids).argmax(-1).cpu().numpy()
        top[number, batch.index] = logits.topk(top.shape[-1], dim=-1).indices.cpu().numpy()
        report(len(batch.index))

    for number, read in enumerate((prompts, [text_anchor(p, model.tokenizer) for p in prompts])):
        for batch in models.shared_batches(model, read, batch_tokens):
            note(number, batch, models.last_logits(model, batch))
    for index in groups:
        first = prompts[index[0]]
        whole = compression.read(model, first)
        for number, condition in enumerate(shown[2:], 2):
            compressed = compression.keep(whole, first.ids[: compression.query_start(first)], kept(first, condition, settings))
            for batch in compression.batches(model, prompts, batch_tokens, compressed, condition.positions, index):
                note(number, batch, compression.query_logits(model, batch, compressed))
    overlaps = np.stack([jaccard(of_condition, top[0]) for of_condition in top])  # (C, N)
    columns = {name: np.tile([getattr(c, name) for c in shown], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(shown)),
            **columns,
            "prediction": predictions.T.ravel(),
            "correct": (predictions == [p.gold for p in prompts]).T.ravel(),
            "label_agrees": (predictions == predictions[0]).T.ravel(),
            f"word_jaccard_{WORDS}": overlaps.T.ravel(),
        }
    )


def alike(prompts: Sequence[TokenizedPrompt]) -> list[list[int]]:
    """Places of the prompts that share their demonstrations, token for token, and the draws' seed; each in one group.

    Raises:
        InputError: A prompt has no demonstration.
    """
    found: dict[tuple, list[int]] = {}
    for place, prompt in enumerate(prompts):
        ids = prompt.ids[: compression.query_start(prompt)]
        places = (ids, compression.kept_positions(prompt), prompt.anchors)
        found.setdefault((prompt.seed, *(array.tobytes() for array in places)), []).append(place)
    return list(found.values())


def kept(prompt: TokenizedPrompt, condition: Condition, settings: Settings) -> np.ndarray:
    """The positions that a condition keeps, ascending, shape (K,).

    Raises:
        InputError: A demonstration has no token to draw.
    """
    anchored = compression.kept_positions(prompt)
    if condition.method == "hidden_anchor":
        return anchored
    first = 0 if settings.accumulate else condition.draw
    drawn = [random_text_positions(prompt, draw) for draw in range(first, condition.draw + 1)]
    return np.union1d(np.setdiff1d(anchored, prompt.anchors), np.concatenate(drawn))


def random_text_positions(prompt: TokenizedPrompt, draw: int) -> np.ndarray:
    """One random position of each demonstration's text, shape (D,); its seed, its demonstrations and the draw decide them.

    Raises:
        InputError: A demonstration has no token to draw.
    """
    digest = int.from_bytes(hashlib.sha256(prompt.ids[: compression.query_start(prompt)].tobytes()).digest()[:8])
    generator = np.random.default_rng([prompt.seed, draw, digest])
    found = []
    for number, positions in enumerate(compression.text_positions(prompt), 1):
        if not len(positions):
            raise InputError(
                f"prompt {prompt.prompt_id}: the text of demonstration {number} has no token to draw; leave such texts out"
            )
        found.append(generator.choice(positions))
    return np.array(found)


def text_anchor(prompt: TokenizedPrompt, tokenizer: PreTrainedTokenizerBase) -> TokenizedPrompt:
    """The prompt with its demonstrations' texts taken out, and the blanks before them ("Review:\\nSentiment: Positive")."""
    text, moved, last = "", [], 0
    for (start, end), (label, label_end) in zip(prompt.text_spans.tolist(), prompt.label_spans.tolist(), strict=True):
        text += prompt.text[last:start].rstrip(" ")
        moved.append(len(text) + label - end)
        text += prompt.text[end:label_end]
        last = label_end
    text += prompt.text[last:]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # A beginning-of-sequence token that is not in the text itself stands before it here, too.
    unwritten = prompt.ids[:1] if prompt.ids[0] == tokenizer.bos_token_id and prompt.spans[0, 1] == 0 else prompt.ids[:0]
    ends = np.array([0] * len(unwritten) + [end for _, end in encoded["offset_mapping"]])  # (T,)
    return replace(
        prompt,
        ids=np.concatenate([unwritten, np.array(encoded["input_ids"], dtype=np.int64)]),
        anchors=np.array([int(np.argmax(ends > label)) for label in moved]),
        text=text,
    )
