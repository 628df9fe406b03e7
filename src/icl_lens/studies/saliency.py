"""Information flow by saliency: S_wp, S_pq and S_ww in each layer (*Label Words are Anchors*, section 2.1, eq. 1-4).

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} the attention matrix of head h in layer l and
* the elementwise product; the diagonal of I_l is set to 0. With p_k the position of the k-th demonstration's label word, q
the last position, and positions counted from 0,

    S_wp = mean of I_l(p_k, j) over k and j < p_k          information flowing from the text to label words   (eq. 2)
    S_pq = mean of I_l(q, p_k) over k                      from label words to the position that predicts     (eq. 3)
    S_ww = mean of I_l(i, j) over all other j < i          amid all other words                               (eq. 4)

The table holds these raw means for each prompt and layer; shares and averages are the figures' business.

The backward pass starts from dL/dz = p - y at the label words' logits z, with p their probabilities and y the gold label's
indicator. A confident answer makes it tiny, and in float16 what is far smaller yet on its way back would vanish. So each
prompt starts from its own multiple of it, a power of two, and its means are divided by that in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention import differentiate, require_supported
from icl_lens.errors import InputError
from icl_lens.models import Batch, LanguageModel, batches, class_logits
from icl_lens.positions import TokenizedPrompt
from icl_lens.precision import at_least_float32

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
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; saliency needs label words to flow to")
    require_supported(model.network)
    means = np.full((len(METRICS), len(prompts), layers), np.nan)  # (3, N, L)
    for batch in batches(model, prompts, batch_tokens):
        anchors = _Anchors(batch, [prompts[i] for i in batch.index])

        def sink(layer: int, weights: Tensor, gradient: Tensor, rows=batch.index, anchors=anchors) -> None:
            flow = (at_least_float32(weights) * at_least_float32(gradient)).sum(1).abs_()  # (B, T, T)
            means[:, rows, layer] = anchors.means(flow).cpu().numpy()

        with differentiate(model.network, sink):
            logits = class_logits(model, batch)  # (B, C)
            start, multiple = _start(logits, batch.gold)  # (B, C), (B,)
            logits.backward(start.to(logits.dtype))
        means[:, batch.index] /= multiple.cpu().numpy()[:, None]
        progress(len(batch.index))
    broken = ~np.isfinite(means).all((0, 2))  # (N,)
    if broken.any():
        raise InputError(
            f"the saliency of {broken.sum()} of {len(prompts)} prompts, {prompts[int(broken.argmax())].prompt_id} among them, "
            f"leaves the range of {str(model.network.dtype).removeprefix('torch.')}; use float32 (dtype)"
        )
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], layers),
            "layer": np.tile(np.arange(layers), len(prompts)),
            **{metric: values.ravel() for metric, values in zip(METRICS, means, strict=True)},
        }
    )


def _start(logits: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    """Where the backward pass starts: for each prompt, the multiple of dL/dz whose largest entry lies in [0.5, 1).

    Args:
        logits: z, shape (B, C).
        gold: The gold label, shape (B,).

    Returns:
        The multiples of dL/dz, shape (B, C), and the powers of two, shape (B,), both float64.
    """
    gradient = logits.detach().cpu().double().softmax(-1)  # (B, C); not every device has float64
    gold = gold.cpu()[:, None]  # (B, 1)
    # The gold label's entry is p - 1, summed from the others: 1 - p would be 0 where p rounds to 1.
    gradient.scatter_(1, gold, -gradient.scatter(1, gold, 0.0).sum(-1, keepdim=True))
    _, exponent = gradient.abs().amax(-1).frexp()  # (B,): the largest entry is in [0.5, 1) times two to this power
    multiple = 2.0 ** -exponent.double()  # (B,); 1 where the gradient is 0
    return gradient * multiple[:, None], multiple


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
