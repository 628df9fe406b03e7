"""In-context learning as kernel regression: how much the last position attends to each demonstration, head by head.

*In-context learning as kernel regression* (Han et al., TMLR 2025). If in-context learning is the kernel regression (eq. 6)

    y_hat = sum_i e(y_i) K(x_test, x_i) / sum_i K(x_test, x_i)

then attention from the last position to the demonstration (x_i, y_i) plays the part of the kernel. For a head, a_i is the
*largest* weight in the last position's row over all tokens of the demonstration (section 5.2), and the head reconstructs

    y~ = argmax_c  sum_i a_i 1[y_i = c] / sum_i a_i

which :mod:`icl_lens.kernel_regression_summary` computes and scores. Beside the maximum stand two controls: the mean over the
same tokens, and the attention to the label word's tokens alone.

**Spans** are those of :mod:`icl_lens.demonstration_places`. Position 0 counts in none (``drop_first``, our choice).

**The attention map** (Figure 2) is the whole row averaged over a seed's prompts. Each x_i, the demonstration without its label
word, is resampled to 30 positions by linear interpolation between its tokens' weights, first token to last; so is the query
with the template's piece after it, down to the last position itself. Each y_i is one bin, the sum over its tokens. Classes
come in another order from seed to seed, so bins are aligned by the demonstration's place in the prompt. A bin of a text is a
height, not a mass: how a row divides into parts is kept by itself, prompt by prompt.

**Text kernels** (Table 2): cosines between the query's text and the demonstrations' texts, of TF-IDF vectors whose document
frequencies are counted in the prompts that are not held out, and of the sentence encoders that the settings name.

One forward pass per prompt on the fused kernel; only the last row of each layer's attention is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from icl_lens import provenance, text_kernels
from icl_lens.attention import record_rows, require_supported
from icl_lens.checkpoints import checkpoint_files
from icl_lens.demonstration_places import Places, places, pooled, require_demonstrations
from icl_lens.kernel_regression_plan import PARTS, TF_IDF, Settings, held_out
from icl_lens.models import LanguageModel, class_logits, shared_batches
from icl_lens.positions import TokenizedPrompt
from icl_lens.precision import at_least_float32

__all__ = ["Settings", "compute", "facts"]


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Attention to every demonstration, by prompt, layer and head; the attention map; cosines of texts.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told after each batch how many prompts it held.
        settings: See :class:`Settings`.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or an encoder cannot be used.

    Returns:
        The rows of :func:`attention_rows`. And tensors: ``map`` (S, L, H, M), the mean over each seed's prompts, its M bins
        those of x_1, y_1, ..., x_D, y_D and the query; ``map_seeds`` (S,); ``map_first`` (L, H, M), of the first prompt alone;
        ``prompt_id`` (N,); ``cosine: NAME`` (N, D) for TF-IDF and each encoder. What a prompt with fewer demonstrations lacks
        is NaN.
    """
    settings = settings or Settings()
    chart = _Map(prompts, settings.bins)
    rows = attention_rows(model, prompts, batch_tokens, progress, settings, chart)
    tensors = {**chart.tensors(), "prompt_id": np.array([p.prompt_id for p in prompts], dtype=np.int64)}
    for name, cosines in _cosines(prompts, settings, model.device).items():
        width = max(len(row) for row in cosines)
        padded = [np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in cosines]
        tensors[f"cosine: {name}"] = np.stack(padded).astype(np.float64)  # (N, D)
    return rows, tensors


@torch.inference_mode()
def attention_rows(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
    settings: Settings,
    chart: _Map | None = None,
) -> pd.DataFrame:
    """Attention to every demonstration, and what the model answers.

    Args:
        model, prompts, batch_tokens, progress, settings: As :func:`compute`.
        chart: Gets every prompt's rows, if it is there.

    Raises:
        InputError: As :func:`compute`.

    Returns:
        One row a prompt, layer and head, in that order: prompt_id, layer and head (from 0), gold and prediction (class
        indices; the label word with the highest logit), demo_labels (D class indices), ``max``, ``mean`` and ``label`` (D
        floats each, see :data:`icl_lens.kernel_regression_plan.POOLINGS`), and one column ``on_...`` for each of
        :data:`icl_lens.kernel_regression_plan.PARTS`: the shares of the row, which sum to 1.
    """
    require_demonstrations(prompts)
    require_supported(model.network)
    layers = model.layers
    found: list[dict[str, Any]] = [{} for _ in prompts]
    for batch in shared_batches(model, prompts, batch_tokens):
        with record_rows(model.network, batch.last) as recorded:
            predicted = class_logits(model, batch).argmax(-1).cpu().numpy()  # (B,)
        rows = torch.stack([at_least_float32(recorded[layer]) for layer in range(layers)]).cpu().numpy()  # (L, B, H, K)
        for row, place in enumerate(batch.index):
            prompt = prompts[place]
            weights = rows[:, row, :, : len(prompt.ids)]  # (L, H, T)
            where = places(prompt, settings.drop_first)
            found[place] = {"prediction": int(predicted[row]), **pooled(weights, where), **_parts(weights, where)}
            if chart:
                chart.add(place, weights, where)
        progress(len(batch.index))
    return pd.concat([_table(prompt, values) for prompt, values in zip(prompts, found, strict=True)], ignore_index=True)


def _parts(weights: np.ndarray, where: Places) -> dict[str, np.ndarray]:
    """How each row divides into parts, shape (L, H) each."""
    part = np.full(weights.shape[-1], PARTS.index("rest"))  # (T,)
    for start, label, stop in zip(where.starts, where.labels, where.stops, strict=True):
        part[start:label] = PARTS.index("texts")
        part[label:stop] = PARTS.index("labels")
    part[where.query : where.end] = PARTS.index("query")
    part[where.end :] = PARTS.index("end")
    part[0] = PARTS.index("first")
    return {f"on_{name}": weights[..., part == number].sum(-1) for number, name in enumerate(PARTS)}


def _table(prompt: TokenizedPrompt, values: dict[str, Any]) -> pd.DataFrame:
    """One prompt's rows."""
    layers, heads = values["max"].shape[:2]
    count = layers * heads
    return pd.DataFrame(
        {
            "prompt_id": prompt.prompt_id,
            "layer": np.repeat(np.arange(layers), heads),
            "head": np.tile(np.arange(heads), layers),
            "gold": prompt.gold,
            "prediction": values["prediction"],
            "demo_labels": [prompt.demo_labels] * count,
            **{name: list(values[name].reshape(count, -1)) for name in ("max", "mean", "label")},
            **{f"on_{name}": values[f"on_{name}"].reshape(count).astype(float) for name in PARTS},
        }
    )


class _Map:
    """Collects the attention map: a sum over the prompts of each seed, and how many prompts each bin rests on."""

    def __init__(self, prompts: Sequence[TokenizedPrompt], bins: int) -> None:
        self.bins = bins
        self.seeds = sorted({p.seed for p in prompts})
        self.row = [self.seeds.index(p.seed) for p in prompts]
        self.most = max((len(p.anchors) for p in prompts), default=0)
        self.width = self.most * (bins + 1) + bins
        self.sums: np.ndarray | None = None
        self.counts = np.zeros((len(self.seeds), self.width))  # (S, M)
        self.first: np.ndarray | None = None

    def add(self, place: int, weights: np.ndarray, where: Places) -> None:
        """A prompt's rows, shape (L, H, T)."""
        drawn = np.full((*weights.shape[:2], self.width), np.nan)  # (L, H, M)
        for demo, (start, label, stop) in enumerate(zip(where.starts, where.labels, where.stops, strict=True)):
            at = demo * (self.bins + 1)
            drawn[..., at : at + self.bins] = self._resampled(weights[..., start:label])
            drawn[..., at + self.bins] = weights[..., label:stop].sum(-1)
        drawn[..., -self.bins :] = self._resampled(weights[..., where.query :])
        if self.sums is None:
            self.sums = np.zeros((len(self.seeds), *drawn.shape))  # (S, L, H, M)
        self.sums[self.row[place]] += np.nan_to_num(drawn)
        self.counts[self.row[place]] += ~np.isnan(drawn[0, 0])
        if place == 0:
            self.first = drawn

    def _resampled(self, weights: np.ndarray) -> np.ndarray:
        """Weights of n tokens at equally many places between the first and the last, shape (L, H, bins)."""
        count = weights.shape[-1]
        if not count:  # a template that begins with its text, whose only token is the prompt's first
            return np.full((*weights.shape[:-1], self.bins), np.nan)
        at = np.linspace(0, count - 1, self.bins)
        below = np.minimum(at.astype(int), max(count - 2, 0))
        above = np.minimum(below + 1, count - 1)
        return weights[..., below] * (1 - (at - below)) + weights[..., above] * (at - below)

    def tensors(self) -> dict[str, np.ndarray]:
        """See :func:`compute`."""
        counts = self.counts[:, None, None]  # (S, 1, 1, M)
        mean = np.divide(self.sums, counts, out=np.full_like(self.sums, np.nan), where=counts > 0)
        return {
            "map": mean.astype(np.float32),
            "map_seeds": np.array(self.seeds, dtype=np.int64),
            "map_first": self.first.astype(np.float32),
        }


def _cosines(prompts: Sequence[TokenizedPrompt], settings: Settings, device: torch.device) -> dict[str, list[np.ndarray]]:
    """By text kernel, each prompt's cosines with its demonstrations, shape (D,) each."""

    def written(prompt: TokenizedPrompt, span: np.ndarray) -> str:
        return prompt.text[span[0] : span[1]]

    pairs = [(written(p, p.query_span), [written(p, span) for span in p.text_spans]) for p in prompts]
    scored = held_out([p.seed for p in prompts], [p.prompt_id for p in prompts], settings)
    fitted = [text for (query, texts), out in zip(pairs, scored, strict=True) if not out for text in (query, *texts)]
    found = {TF_IDF: text_kernels.tf_idf_cosines(pairs, fitted)}
    for name, folder in settings.encoders.items():
        found[name] = text_kernels.encoder_cosines(pairs, folder, device)
    return found


def facts(model: LanguageModel, settings: Settings) -> dict[str, Any]:
    """What an artifact says of the encoders besides their folders: the hash of their files."""
    return {"encoders": {name: provenance.files_hash(checkpoint_files(folder)) for name, folder in settings.encoders.items()}}
