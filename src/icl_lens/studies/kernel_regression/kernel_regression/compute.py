"""In-context learning as kernel regression: how much the last position attends to each demonstration, for each head.

*In-context learning as kernel regression* (Han et al., TMLR 2025). If in-context learning is the kernel regression (eq. 6)

    y_hat = sum_i e(y_i) K(x_test, x_i) / sum_i K(x_test, x_i)

then attention from the last position to the demonstration (x_i, y_i) corresponds to the kernel. For a head, a_i is the
*largest* weight in the last position's row over all tokens of the demonstration (section 5.2), and the head reconstructs

    y~ = argmax_c  sum_i a_i 1[y_i = c] / sum_i a_i

:mod:`icl_lens.studies.kernel_regression.reconstruction` computes and scores this reconstruction. The rows of the table are
those of :mod:`icl_lens.studies.kernel_regression.demonstration_attention`, which also includes two controls for the maximum.

**The attention map** (Figure 2) is the whole row averaged over a seed's prompts. Each x_i, the demonstration without its label
word, is resampled to 30 positions by linear interpolation between its tokens' weights, from the first token to the last. The
query is resampled in the same way, together with the part of the template after it, up to and including the last position. Each
y_i is one bin, the sum over its tokens. The order of the classes differs between seeds, so bins are aligned by the
demonstration's position in the prompt. The bin of a text is an interpolated weight, not a sum of weights. The shares of a row
that go to its parts are therefore stored separately, for each prompt.

**Text kernels** (Table 2) are cosines between the query's text and the demonstrations' texts. They use TF-IDF vectors, with
document frequencies from the prompts that are not held out, and the sentence encoders in the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstration_places import Places
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.text_similarity import tf_idf_cosines
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
    """Compute the attention to each demonstration by prompt, layer and head, the attention map, and the cosines of texts.

    Args:
        model, prompts, batch_tokens, progress, settings: Standard arguments of a study, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or an encoder cannot be used.

    Returns:
        The rows of :func:`~icl_lens.studies.kernel_regression.demonstration_attention.attention_rows`, and these tensors:
        ``map`` (S, L, H, M), the mean over each seed's prompts, with M bins for x_1, y_1, ..., x_D, y_D and the query;
        ``map_seeds`` (S,); ``map_first`` (L, H, M), for only the first prompt; ``prompt_id`` (N,); ``cosine: NAME`` (N, D) for
        TF-IDF and each encoder. Entries for demonstrations that a prompt does not have are NaN.
    """
    settings = settings or Settings()
    attention_map = _AttentionMap(prompts, settings.bins)
    rows = attention_rows(model, prompts, batch_tokens, progress, settings, attention_map.add)
    tensors = {**attention_map.tensors(), "prompt_id": np.array([p.prompt_id for p in prompts], dtype=np.int64)}
    for name, cosines in _cosines(prompts, settings, model.device).items():
        width = max(len(row) for row in cosines)
        padded = [np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in cosines]
        tensors[f"cosine: {name}"] = np.stack(padded).astype(np.float64)  # (N, D)
    return rows, tensors


class _AttentionMap:
    """Accumulator of the attention map: a sum over the prompts of each seed, and the number of prompts in each bin."""

    def __init__(self, prompts: Sequence[TokenizedPrompt], bins: int) -> None:
        self.bins = bins
        self.seeds = sorted({p.seed for p in prompts})
        self.seed_indices = [self.seeds.index(p.seed) for p in prompts]
        self.max_demonstrations = max((len(p.demo_labels) for p in prompts), default=0)
        self.width = self.max_demonstrations * (bins + 1) + bins
        self.sums: np.ndarray | None = None
        self.counts = np.zeros((len(self.seeds), self.width))  # (S, M)
        self.first: np.ndarray | None = None

    def add(self, index: int, weights: np.ndarray, spans: Places) -> None:
        """Add the rows of one prompt, shape (L, H, T)."""
        binned = np.full((*weights.shape[:2], self.width), np.nan)  # (L, H, M)
        for demo, (start, label, stop) in enumerate(zip(spans.starts, spans.labels, spans.stops, strict=True)):
            offset = demo * (self.bins + 1)
            binned[..., offset : offset + self.bins] = self._resample(weights[..., start:label])
            binned[..., offset + self.bins] = weights[..., label:stop].sum(-1)
        binned[..., -self.bins :] = self._resample(weights[..., spans.query :])
        if self.sums is None:
            self.sums = np.zeros((len(self.seeds), *binned.shape))  # (S, L, H, M)
        self.sums[self.seed_indices[index]] += np.nan_to_num(binned)
        self.counts[self.seed_indices[index]] += ~np.isnan(binned[0, 0])
        if index == 0:
            self.first = binned

    def _resample(self, weights: np.ndarray) -> np.ndarray:
        """Resample the weights of n tokens to evenly spaced positions from the first to the last token, shape (L, H, bins)."""
        count = weights.shape[-1]
        if not count:  # the template begins with its text, and the text's only token is the prompt's first
            return np.full((*weights.shape[:-1], self.bins), np.nan)
        positions = np.linspace(0, count - 1, self.bins)
        lower = np.minimum(positions.astype(int), max(count - 2, 0))
        upper = np.minimum(lower + 1, count - 1)
        return weights[..., lower] * (1 - (positions - lower)) + weights[..., upper] * (positions - lower)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the map tensors of :func:`compute`."""
        counts = self.counts[:, None, None]  # (S, 1, 1, M)
        mean = np.divide(self.sums, counts, out=np.full_like(self.sums, np.nan), where=counts > 0)
        return {
            "map": mean.astype(np.float32),
            "map_seeds": np.array(self.seeds, dtype=np.int64),
            "map_first": self.first.astype(np.float32),
        }


def _cosines(prompts: Sequence[TokenizedPrompt], settings: Settings, device: torch.device) -> dict[str, list[np.ndarray]]:
    """Compute each prompt's cosines with its demonstrations for each text kernel, shape (D,) each."""

    def span_text(prompt: TokenizedPrompt, span: np.ndarray) -> str:
        return prompt.text[span[0] : span[1]]

    pairs = [(span_text(p, p.query_span), [span_text(p, span) for span in p.text_spans]) for p in prompts]
    masks = held_out([p.seed for p in prompts], [p.query_index for p in prompts], settings)
    corpus = [
        text for (query, texts), is_held_out in zip(pairs, masks, strict=True) if not is_held_out for text in (query, *texts)
    ]
    cosines = {TF_IDF: tf_idf_cosines(pairs, corpus)}
    for name, folder in settings.encoders.items():
        cosines[name] = text_kernels.encoder_cosines(pairs, folder, device)
    return cosines
