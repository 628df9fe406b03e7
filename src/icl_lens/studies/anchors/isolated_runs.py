"""Comparison of runs with isolated positions, which are blocked from attending to all earlier positions, with plain runs.

The equations of isolation are in :mod:`icl_lens.studies.anchors.isolation.compute`, and :mod:`icl_lens.models.isolated_runs`
performs the runs.

A condition that isolates in the last k layers has the same hidden states as the plain run up to these layers. A condition that
isolates in the first k layers has the same states, up to layer k, as a condition that isolates in more of the first layers.
Such runs start from the stored states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.batching import Batch, group_by_prefix, needs_any
from icl_lens.models.isolated_runs import States, runs
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies.anchors.isolated_positions import (
    fixed_positions,
    order_of,
    random_positions,
)
from icl_lens.studies.anchors.isolating import WORDS, Condition, Settings, Target, conditions

# Maximum number of bytes of layer inputs that are stored for the prompts of a group, excluding the shared prefix.
STATE_BYTES = 2**28


@torch.inference_mode()
def compare(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
    settings: Settings,
) -> pd.DataFrame:
    """Compare the predictions for each prompt under each condition with the plain run of the same prompt.

    Args:
        model: Any supported model.
        prompts: Prompts that fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        progress: Called with the number of further prompts that are completed in all conditions.
        settings: See :class:`~icl_lens.studies.anchors.isolating.Settings`.

    Raises:
        InputError: A prompt has no demonstration or lacks the tokens to isolate, the settings request more layers than the
            model has, or the model's family is not supported.

    Returns:
        One row per prompt and condition, in this order: prompt_id, target, side, layers (k), draw (always 0 except for random),
        order (number of the prompt's random order, also for the other targets, so that conditions can be paired; see
        :func:`~icl_lens.studies.anchors.isolated_positions.order_of`), prediction (class index), label_agrees, word_jaccard_5,
        word_jaccard_10.
    """
    planned = conditions(settings, model.layers)
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but isolation requires label words; use prompts with "
            "demonstrations"
        )
    require_supported(model.network)
    sources = sorted({(c.target, c.draw) for c in planned})
    positions = {source: _positions(model, prompts, *source, settings) for source in sources}
    predictions = np.empty((len(planned), len(prompts)), dtype=np.int64)  # (C, N)
    overlaps = {k: np.empty((len(planned), len(prompts))) for k in WORDS}  # (C, N) each
    report = Runs(progress, len(planned) + 1)
    plain = np.empty(len(prompts), dtype=np.int64)  # (N,)
    # Batches within a part depend on each other, so a part with a needed prompt is computed completely.
    parts = [part for part in _parts(model, prompts, planned) if needs_any(prompts, part.index)]
    prompts = [replace(prompt, needed=True) for prompt in prompts]
    for group in parts:
        top: dict[int, np.ndarray] = {}
        # A condition in the last k layers shares the plain run's states up to these layers, and starts there.
        unchanged = States({model.layers - c.layers for c in planned if c.side == "last"} if model.can_resume else ())
        for batch, logits in runs(model, prompts, group, None, (), settings.blocking, batch_tokens, recorded=unchanged):
            plain[batch.index] = _predictions(batch, logits)
            top |= dict(zip(batch.index, _top_tokens(batch, logits), strict=True))
            report(len(batch.prompts))
        for target, draw in dict.fromkeys((c.target, c.draw) for c in planned):
            numbers = {(c.side, c.layers): i for i, c in enumerate(planned) if (c.target, c.draw) == (target, draw)}
            # A condition in the first k layers shares the states up to layer k with the largest condition, which runs first.
            largest_k = max((k for side, k in numbers if side == "first"), default=0)
            changed = States({k for side, k in numbers if side == "first" and k < largest_k} if model.can_resume else ())
            for side, k in sorted(numbers, key=lambda key: -key[1]):
                number = numbers[side, k]
                layers = range(k) if side == "first" else range(model.layers - k, model.layers)
                start, states = (model.layers - k, unchanged) if side == "last" else (k, changed)
                resume_from = (states, start) if start in states.layers else None
                keep = changed if (side, k) == ("first", largest_k) else None
                target_positions = positions[target, draw]
                results = runs(
                    model, prompts, group, target_positions, layers, settings.blocking, batch_tokens, resume_from, keep
                )
                for batch, logits in results:
                    predictions[number, batch.index] = _predictions(batch, logits)
                    after, before = _top_tokens(batch, logits), np.stack([top[i] for i in batch.index])  # (B, 10) each
                    for size, overlap in overlaps.items():
                        overlap[number, batch.index] = jaccard(after[:, :size], before[:, :size])
                    report(len(batch.prompts))
    columns = {name: np.tile([getattr(c, name) for c in planned], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(planned)),
            **{name: columns[name] for name in ("target", "side", "layers", "draw")},
            "order": np.repeat([order_of(p, settings) for p in prompts], len(planned)),
            "prediction": predictions.T.ravel(),
            "label_agrees": (predictions == plain).T.ravel(),
            **{f"word_jaccard_{size}": overlap.T.ravel() for size, overlap in overlaps.items()},
        }
    )


def _positions(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], target: Target, draw: int, settings: Settings
) -> list[np.ndarray]:
    """Return the isolated positions of each prompt, shape (A,) or (D,) each."""
    if target == "random":
        return [random_positions(p, settings, draw, model.tokenizer.bos_token_id) for p in prompts]
    return [fixed_positions(p, target, lambda token: model.tokenizer.decode([token])) for p in prompts]


def _parts(model: LanguageModel, prompts: Sequence[TokenizedPrompt], planned: Sequence[Condition]) -> Iterator[prefixes.Group]:
    """Yield groups of prompts with a shared prefix, split so that :class:`States` stores at most :data:`STATE_BYTES`."""
    stored_layers = 2 * len({c.layers for c in planned}) if model.can_resume else 0
    width = model.network.get_input_embeddings().weight
    for group in group_by_prefix(model, prompts):
        longest = max(_row_tokens(prompts[i], len(group.ids)) for i in group.index)
        size = max(1, STATE_BYTES // max(1, stored_layers * longest * width.shape[-1] * width.element_size()))
        for first in range(0, len(group.index), size):
            yield replace(group, index=group.index[first : first + size])


def _row_tokens(prompt: TokenizedPrompt, start: int) -> int:
    """Return the number of tokens in the rows of a prompt after a prefix of ``start`` tokens."""
    paths = prompt.label_words.paths if prompt.label_words else ((),)
    return sum(len(prompt.ids) - start + len(path) for path in paths)


def _predictions(batch: Batch, logits: Tensor) -> np.ndarray:
    """Return the predicted classes, shape (B,)."""
    return class_scores(batch, logits).argmax(-1).cpu().numpy()


def _top_tokens(batch: Batch, logits: Tensor) -> np.ndarray:
    """Return the most likely next tokens of the prompts in descending order of probability, shape (B, 10)."""
    return logits[: len(batch.index)].topk(min(max(WORDS), logits.shape[-1]), dim=-1).indices.cpu().numpy()
