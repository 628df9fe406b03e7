"""In-context learning as kernel regression: how much the last position attends to each demonstration, head by head.

*In-context learning as kernel regression* (Han et al., TMLR 2025). If in-context learning is the kernel regression (eq. 6)

    y_hat = sum_i e(y_i) K(x_test, x_i) / sum_i K(x_test, x_i)

then attention from the last position to the demonstration (x_i, y_i) plays the part of the kernel. For a head, a_i is the
*largest* weight in the last position's row over all tokens of the demonstration (section 5.2), and the head reconstructs

    y~ = argmax_c  sum_i a_i 1[y_i = c] / sum_i a_i

which :mod:`icl_lens.studies.kernel_regression.reconstruction` computes and scores. The rows of the table are those of
:mod:`icl_lens.studies.kernel_regression.demonstration_attention`; there are two controls beside the maximum.

**The attention map** (Figure 2) is the whole row averaged over a seed's prompts. Each x_i, the demonstration without its label
word, is resampled to 30 positions by linear interpolation between its tokens' weights, first token to last; so is the query
with the template's piece after it, down to the last position itself. Each y_i is one bin, the sum over its tokens. Classes come
in another order from seed to seed, so bins are aligned by the demonstration's place in the prompt. A bin of a text is a height,
not a mass: how a row divides into parts is kept by itself, prompt by prompt.

**Text kernels** (Table 2): cosines between the query's text and the demonstrations' texts, of TF-IDF vectors whose document
frequencies are counted in the prompts that are not held out, and of the sentence encoders that the settings name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstration_places import Places
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.kernel_regression.demonstration_attention import attention_rows
from icl_lens.studies.kernel_regression.kernel_regression import text_kernels
from icl_lens.studies.kernel_regression.settings import TF_IDF, Settings, held_out


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Attention to every demonstration, by prompt, layer and head; the attention map; cosines of texts.

    Args:
        model, prompts, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or an encoder cannot be used.

    Returns:
        The rows of :func:`~icl_lens.studies.kernel_regression.demonstration_attention.attention_rows`. And tensors: ``map`` (S,
        L, H, M), the mean over each seed's prompts, its M bins those of x_1, y_1, ..., x_D, y_D and the query; ``map_seeds``
        (S,); ``map_first`` (L, H, M), of the first prompt alone; ``prompt_id`` (N,); ``cosine: NAME`` (N, D) for TF-IDF and
        each encoder. What a prompt with fewer demonstrations lacks is NaN.
    """
    settings = settings or Settings()
    chart = _Map(prompts, settings.bins)
    rows = attention_rows(model, prompts, batch_tokens, progress, settings, chart.add)
    tensors = {**chart.tensors(), "prompt_id": np.array([p.prompt_id for p in prompts], dtype=np.int64)}
    for name, cosines in _cosines(prompts, settings, model.device).items():
        width = max(len(row) for row in cosines)
        padded = [np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in cosines]
        tensors[f"cosine: {name}"] = np.stack(padded).astype(np.float64)  # (N, D)
    return rows, tensors


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
