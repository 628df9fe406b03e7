"""Information flow by saliency (*Label Words are Anchors*, section 2.1, eq. 1), for every study that looks at it.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} the attention matrix of head h in layer l and
* the elementwise product. I_l(i, j) is what flows from position j to position i; the diagonal counts for nothing.

The backward pass starts from dL/dz = p - y at the label words' logits z, with p their probabilities and y the gold label's
indicator. A confident answer makes it tiny, and in float16 what is far smaller yet on its way back would vanish. So each prompt
starts from its own multiple of it, a power of two; what is made of its I_l is to be divided by that in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from icl_lens.attention.flow import FlowSink, flows
from icl_lens.errors import InputError
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits
from icl_lens.prompts.positions import TokenizedPrompt

METRICS = ("s_wp", "s_pq", "s_ww")
"""The means of eq. 2 to 4, see :mod:`icl_lens.studies.anchors.saliency.compute`."""


def measure(model: LanguageModel, batch: Batch, sink: FlowSink, with_weights: bool = False) -> np.ndarray:
    """Hand ``sink`` each layer's information flow in a batch of whole prompts, last layer first.

    Args:
        model: Of a supported family (:func:`icl_lens.attention.supported.require_supported`).
        batch: It has no prefix.
        sink: Told a layer, a multiple of its I_l, float32 at least, shape (B, T, T), and the mean over heads of the attention
            weights, of the same shape, or None. What flows to padding is zero, for nothing there reaches the loss; the diagonal
            is as eq. 1 has it.
        with_weights: Whether that mean is wanted.

    Returns:
        The multiples, powers of two, shape (B,), float64.
    """
    # The loss looks at the last position alone; that mean looks at every row.
    rows = batch.last if model.ends_in_rows and not with_weights else None  # (B,)
    with flows(model.network, sink, with_weights, rows):
        logits = class_logits(model, batch)  # (B, C)
        start, multiple = _start(logits, batch.gold)  # (B, C), (B,)
        logits.backward(start.to(logits.dtype).to(logits.device))  # the CPU narrows it: not every device has float64
    return multiple.numpy()


class EdgeMeans:
    """Where a batch's label words are, and the means over the edges they divide an information flow into.

    The device adds up one row of a matrix at a time, in the flow's own number format; rows are added up on the CPU in float64,
    which not every device has.
    """

    def __init__(self, batch: Batch, prompts: Sequence[TokenizedPrompt]) -> None:
        # One entry a label word of the batch, M in all, prompt after prompt.
        self.row = torch.cat([torch.full((len(p.anchors),), b) for b, p in enumerate(prompts)])  # (M,)
        self.position = torch.cat([torch.from_numpy(p.anchors) for p in prompts])  # (M,)
        self.last = batch.last.cpu()  # (B,)
        self.prompts = torch.arange(len(self.last))  # (B,)
        # The rows that are needed entry by entry: the label words', then the last positions'.
        rows, positions = torch.cat([self.row, self.prompts]), torch.cat([self.position, self.last])  # (M + B,) each
        self.single = rows.to(batch.ids.device), positions.to(batch.ids.device)
        self.edges_wp = self._per_prompt(self.position.double())  # (B,): position p has p edges to earlier ones
        self.edges_pq = self._per_prompt(torch.ones_like(self.position).double())  # (B,)
        last = self.last.double()
        self.edges_ww = last * (last + 1) / 2 - self.edges_wp - self.edges_pq  # (B,)

    def of(self, flow: Tensor) -> Tensor:
        """Mean information flow along each kind of edge, shape (3, B), float64 on the CPU.

        Args:
            flow: I_l of each prompt, shape (B, T, T); what flows to padding is zero, for nothing there reaches the loss.
        """
        below = flow.tril(-1)  # (B, T, T): above the diagonal there is nothing, for a causal model attends to nothing there
        needed = torch.cat([below.sum(-1), below[self.single]]).cpu().double()  # (B + M + B, T)
        rest, into, from_last = needed.split([len(self.last), len(self.row), len(self.last)])  # (B, T), (M, T), (B, T)
        rest[self.row, self.position] = 0
        rest[self.prompts, self.last] = 0
        wp = self._per_prompt(into.sum(-1))  # (B,)
        pq = self._per_prompt(from_last[self.row, self.position])  # (B,)
        from_last[self.row, self.position] = 0
        ww = rest.sum(-1) + from_last.sum(-1)  # (B,)
        return torch.stack([wp / self.edges_wp, pq / self.edges_pq, ww / self.edges_ww])  # (3, B)

    def _per_prompt(self, values: Tensor) -> Tensor:
        """Sums of one value a label word, shape (M,), over each prompt's label words, shape (B,)."""
        return values.new_zeros(len(self.last)).index_add_(0, self.row, values)


def require_demonstrations(prompts: Sequence[TokenizedPrompt]) -> None:
    """Refuse prompts without label words.

    Raises:
        InputError: A prompt has no demonstration.
    """
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; saliency needs label words to flow to")


def require_finite(model: LanguageModel, prompts: Sequence[TokenizedPrompt], finite: np.ndarray) -> None:
    """Refuse what left the range of the model's number format on its way back.

    Args:
        model: Has the number format.
        prompts: N of them.
        finite: Whether all that was made of a prompt's flow is finite, shape (N,).

    Raises:
        InputError: Something of a prompt is not.
    """
    if not finite.all():
        raise InputError(
            f"the saliency of {(~finite).sum()} of {len(prompts)} prompts, {prompts[int(finite.argmin())].prompt_id} among "
            f"them, leaves the range of {str(model.network.dtype).removeprefix('torch.')}; use float32 (dtype)"
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
