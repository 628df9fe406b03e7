"""Compression: does the prediction stay the same when only a few keys and values of the demonstrations are kept?

*Label Words are Anchors*, section 3.2 (Table 2). Each method is compared with the full run of the same prompt, in the same job:

    Text_anchor     the demonstrations' template and label words without their texts, as text of its own
    Hidden_anchor   the keys and values, in all layers, of the same tokens within the whole demonstrations
                    (:func:`icl_lens.studies.anchors.compressed_demonstrations.kept_positions`)
    Hidden_random   the same positions, but in place of each label word's first token a random token of its demonstration's
                    text; drawn anew for each draw, the same for all prompts that share their demonstrations

A label word's further tokens are kept where its first is replaced, as released. The released ``compress_top.py`` never clears
its mask, so its draw n has the random tokens of all draws up to n: ``accumulate``.

The comparison is of the predicted label and of the sets of the 5 likeliest tokens. Hidden_random-top, the draw with the highest
label loyalty, is chosen in :mod:`icl_lens.studies.anchors.compression.summary`.
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
from icl_lens.models.logits import last_logits
from icl_lens.progress import Runs
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
    """Predictions for every prompt by every method, against the prompt's full run.

    Args:
        prompts, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        model: Any model whose keys and values can be kept.

    Raises:
        InputError: A prompt has no demonstration, or one without a token to draw, or the model's family cannot do it.

    Returns:
        One row a prompt and condition, in that order, the full run first: prompt_id, method, draw (0 but for hidden_random),
        positions, prediction (class index), correct, label_agrees, word_jaccard_5.
    """
    settings = settings or Settings()
    planned = conditions(settings)
    groups = compressed_demonstrations.group_by_demonstrations(prompts)
    compressed_demonstrations.require_compressible(model)
    shown = [Condition("full", 0, OWN), *planned]
    predictions = np.empty((len(shown), len(prompts)), dtype=np.int64)  # (C, N)
    top = np.empty((len(shown), len(prompts), min(WORDS, len(model.tokenizer))), dtype=np.int64)  # (C, N, 5)
    report = Runs(progress, len(shown))

    def note(number: int, batch: Batch, logits: Tensor) -> None:
        predictions[number, batch.index] = logits.gather(1, batch.label_ids).argmax(-1).cpu().numpy()
        top[number, batch.index] = logits.topk(top.shape[-1], dim=-1).indices.cpu().numpy()
        report(len(batch.index))

    for number, read in enumerate((prompts, [text_anchor(p, model.tokenizer) for p in prompts])):
        for batch in batching.shared_batches(model, read, batch_tokens):
            note(number, batch, last_logits(model, batch))
    for index in groups:
        first = prompts[index[0]]
        whole = compressed_demonstrations.read(model, first)
        for number, condition in enumerate(shown[2:], 2):
            compressed = compressed_demonstrations.keep(
                whole, first.ids[: compressed_demonstrations.query_start(first)], kept(first, condition, settings)
            )
            for batch in compressed_demonstrations.batches(
                model, prompts, batch_tokens, compressed, condition.positions == "restarted", index
            ):
                note(number, batch, compressed_demonstrations.query_logits(model, batch, compressed))
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


def kept(prompt: TokenizedPrompt, condition: Condition, settings: Settings) -> np.ndarray:
    """The positions that a condition keeps, ascending, shape (K,).

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
    """One random position of each demonstration's text, shape (D,); its seed, its demonstrations and the draw decide them.

    Raises:
        InputError: A demonstration has no token to draw.
    """
    digest = int.from_bytes(hashlib.sha256(prompt.ids[: compressed_demonstrations.query_start(prompt)].tobytes()).digest()[:8])
    generator = np.random.default_rng([prompt.seed, draw, digest])
    found = []
    for number, positions in enumerate(compressed_demonstrations.text_positions(prompt), 1):
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
