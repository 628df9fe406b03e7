"""Measurements of a single prompt that no study stores: the flow of each head, and the isolation of each label word.

The equations are those of :mod:`icl_lens.studies.anchors.saliency.compute` and
:mod:`icl_lens.studies.anchors.isolation.compute`. Eq. 1 sums over the heads before it takes the absolute value,

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                       (*Label Words are Anchors*, section 2.1, eq. 1)
    I_{h,l} = | A_{h,l} * dL/dA_{h,l} |                          the flow of one head, not in the paper

so that I_l(i, j) is at most the sum of I_{h,l}(i, j) over the heads, and smaller if terms of different signs cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.models import information_flow, prefixes
from icl_lens.models.batching import batches
from icl_lens.models.isolated_runs import States, runs
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores
from icl_lens.network import vocabulary
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolating import SIDES, Settings, conditions

ALL = -1
"""Number of the rows of :func:`isolate_label_words` in which all label words are isolated."""

# (layer, flow of each head (H, T, T), attention weights of each head (H, T, T)) -> None
HeadSink = Callable[[int, np.ndarray, np.ndarray], None]


def head_flows(model: LanguageModel, prompt: TokenizedPrompt, sink: HeadSink) -> float:
    """Pass the information flow of each head of each layer to ``sink``, starting with the last layer.

    Only one layer's matrices are in memory at a time.

    Args:
        model: Any supported model.
        prompt: A prompt that fits the model's context.
        sink: Called with a layer, a multiple of its I_{h,l}, and its attention weights. Both are float64 of shape (H, T, T),
            and zero on and above the diagonal. The flow to appended tokens of label words counts as flow to the last position.

    Raises:
        InputError: The prompt has no demonstration, the model's family is not supported, or the range of its number format is
            too small.

    Returns:
        The multiple. It is the same for all layers.
    """
    information_flow.require_demonstrations([prompt])
    require_supported(model.network)
    finite = True

    def report(layer: int, product: Tensor, weights: Tensor) -> None:
        nonlocal finite
        length = len(prompt.ids)
        flow = information_flow.within_prompt(batch, prompt, 0, product.abs())  # (H, T, T)
        attention = np.tril(weights[0, :, :length, :length].cpu().double().numpy(), -1)  # (H, T, T)
        finite = finite and bool(np.isfinite(flow).all())
        sink(layer, flow, attention)

    (batch,) = batches(model, [prompt], len(prompt.ids), kept="graph", score=True)
    multiple = information_flow.measure(model, batch, report, with_weights=True, per_head=True)[0]
    information_flow.require_finite(model, [prompt], np.array([finite]))
    return float(multiple)


@torch.inference_mode()
def isolate_label_words(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    batch_tokens: int = 4096,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predict a prompt with each label word isolated separately, and with all label words isolated.

    Args:
        model: Any supported model.
        prompt: A prompt that fits the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        settings: The numbers of layers and the method of blocking; the other settings are not used.

    Raises:
        InputError: The prompt has no demonstration, the settings request more layers than the model has, or the model's family
            is not supported.

    Returns:
        One row per isolated label word and condition: word (number of the demonstration, from 0; :data:`ALL` for all label
        words), side (first or last), layers (k), prediction (class index), class_log_probs (C floats, log-softmax over the
        label words).
    """
    settings = (settings or Settings()).model_copy(update={"targets": ["label"]})
    information_flow.require_demonstrations([prompt], "isolation")
    require_supported(model.network)
    counts = sorted({condition.layers for condition in conditions(settings, model.layers)})
    words = [ALL, *range(len(prompt.demo_labels))]
    demonstrations = prompt.anchor_demonstrations  # (A,)
    positions = [prompt.anchors if word == ALL else prompt.anchors[demonstrations == word] for word in words]
    # The tokens before the first anchor are the same in all runs.
    shared = prompt.ids[: prompt.anchors[0]] if model.shares_prefixes else prompt.ids[:0]
    group = prefixes.Group(list(range(len(words))), shared)
    log_probs = _log_probs(model, [prompt] * len(words), group, positions, counts, settings.blocking, batch_tokens)
    return pd.DataFrame(
        [
            {
                "word": word,
                "side": side,
                "layers": k,
                "prediction": int(each[row].argmax()),
                "class_log_probs": each[row].tolist(),
            }
            for row, word in enumerate(words)
            for (side, k), each in sorted(log_probs.items())
        ]
    )


def _log_probs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    group: prefixes.Group,
    positions: Sequence[np.ndarray],
    counts: Sequence[int],
    blocking: str,
    batch_tokens: int,
) -> dict[tuple[str, int], np.ndarray]:
    """Return the log-probabilities of the label words in each run: (side, number of layers) -> shape (N, C).

    Args:
        model: Any supported model.
        prompts: The same prompt, N times.
        group: All prompts, with their shared prefix.
        positions: Isolated positions of each prompt.
        counts: Numbers of layers.
        blocking: See :class:`~icl_lens.studies.anchors.isolating.Settings`.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
    """
    # The states that later runs start from, as in icl_lens.studies.anchors.isolated_runs.compare.
    resumes = model.can_resume
    unchanged = States({model.layers - k for k in counts} if resumes else ())
    changed = States(set(counts[:-1]) if resumes else ())
    tokens, columns = torch.unique(torch.from_numpy(prompts[0].label_ids), return_inverse=True)  # (M,), (C,)
    # Whole label words need the logits of all tokens, and so does the check of model.defers_logits.
    restricts = model.defers_logits and not prompts[0].label_words
    result = {}
    with vocabulary.restrict_tokens(model.network, tokens.to(model.device)) if restricts else nullcontext(False) as restricted:
        if unchanged.layers:
            for _ in runs(model, prompts, replace(group, index=[0]), None, (), blocking, batch_tokens, recorded=unchanged):
                pass
            unchanged.copy(0, range(1, len(prompts)))
        for side in SIDES:
            for k in reversed(counts):
                layers = range(k) if side == "first" else range(model.layers - k, model.layers)
                states, start = (changed, k) if side == "first" else (unchanged, model.layers - k)
                resume_from = (states, start) if start in states.layers else None
                recorded = changed if (side, k) == ("first", counts[-1]) else None
                found = np.empty((len(prompts), len(columns)))  # (N, C)
                for batch, logits in runs(
                    model, prompts, group, positions, layers, blocking, batch_tokens, resume_from, recorded
                ):
                    scores = logits[:, columns.to(logits.device)] if restricted else class_scores(batch, logits)  # (B, C)
                    found[batch.index] = scores.cpu().double().log_softmax(-1).numpy()
                result[side, k] = found
    return result
