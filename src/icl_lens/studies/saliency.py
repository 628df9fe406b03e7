"""Information flow by saliency: S_wp, S_pq and S_ww in each layer (*Label Words are Anchors*, section 2.1, eq. 1-4).

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} the attention matrix of head h in layer l and
* the elementwise product; the diagonal of I_l is set to 0. With p_k the position of the k-th demonstration's label word, q
the last position, and positions counted from 0,

    S_wp = mean of I_l(p_k, j) over k and j < p_k          information flowing from the text to label words   (eq. 2)
    S_pq = mean of I_l(q, p_k) over k                      from label words to the position that predicts     (eq. 3)
    S_ww = mean of I_l(i, j) over all other j < i          amid all other words                               (eq. 4)

The table holds these raw means for each prompt and layer; shares and averages are the figures' business.
How I_l is measured: :mod:`icl_lens.information_flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens import information_flow
from icl_lens.attention import require_supported
from icl_lens.models import Batch, LanguageModel, batches
from icl_lens.positions import TokenizedPrompt

METRICS = ("s_wp", "s_pq", "s_ww")


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """The three means of every prompt and layer.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told after each batch how many prompts it held.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or its number format is too narrow.

    Returns:
        One row a prompt and layer, in that order: prompt_id, layer (from 0), s_wp, s_pq, s_ww.
    """
    layers = model.layers
    information_flow.require_demonstrations(prompts)
    require_supported(model.network)
    means = np.full((len(METRICS), len(prompts), layers), np.nan)  # (3, N, L)
    for batch in batches(model, prompts, batch_tokens):
        anchors = _Anchors(batch, [prompts[i] for i in batch.index])

        def sink(layer: int, flow: Tensor, rows=batch.index, anchors=anchors) -> None:
            means[:, rows, layer] = anchors.means(flow).cpu().numpy()

        multiple = information_flow.measure(model, batch, sink)  # (B,)
        means[:, batch.index] /= multiple[:, None]
        progress(len(batch.index))
    information_flow.require_finite(model, prompts, np.isfinite(means).all((0, 2)))
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], layers),
            "layer": np.tile(np.arange(layers), len(prompts)),
            **{metric: values.ravel() for metric, values in zip(METRICS, means, strict=True)},
        }
    )


class _Anchors:
    """Where a batch's label words are, and the means over the edges they divide an information flow into."""

    def __init__(self, batch: Batch, prompts: Sequence[TokenizedPrompt]) -> None:
        device = batch.ids.device
        self.last = batch.last  # (B,)
        # One entry a label word of the batch, M in all, prompt after prompt.
        self.row = torch.cat([torch.full((len(p.anchors),), b) for b, p in enumerate(prompts)]).to(device)  # (M,)
        self.position = torch.cat([torch.from_numpy(p.anchors) for p in prompts]).to(device)  # (M,)
        self.columns = torch.arange(batch.ids.shape[1], device=device)  # (T,)
        self.edges_wp = self._per_prompt(self.position.double())  # (B,): position p has p edges to earlier ones
        self.edges_pq = self._per_prompt(torch.ones_like(self.position).double())  # (B,)
        last = self.last.double()
        self.edges_ww = last * (last + 1) / 2 - self.edges_wp - self.edges_pq  # (B,)

    def means(self, flow: Tensor) -> Tensor:
        """Mean information flow along each kind of edge, shape (3, B).

        Args:
            flow: I_l of each prompt, shape (B, T, T); what flows to padding is zero, for nothing there reaches the loss.
        """
        into = flow[self.row, self.position] * (self.columns < self.position[:, None])  # (M, T): j < p_k
        wp = self._per_prompt(into.sum(-1, dtype=torch.float64))  # (B,)
        pq = self._per_prompt(flow[self.row, self.last[self.row], self.position].double())  # (B,)
        # All edges less the diagonal: above it there is nothing, for a causal model attends to nothing there.
        total = flow.sum((1, 2), dtype=torch.float64) - flow.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)  # (B,)
        return torch.stack([wp / self.edges_wp, pq / self.edges_pq, (total - wp - pq) / self.edges_ww])  # (3, B)

    def _per_prompt(self, values: Tensor) -> Tensor:
        """Sums of one value a label word, shape (M,), over each prompt's label words, shape (B,)."""
        return torch.zeros(len(self.last), dtype=values.dtype, device=values.device).index_add_(0, self.row, values)
