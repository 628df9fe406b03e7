"""Information flow by saliency (*Label Words are Anchors*, section 2.1, eq. 1), shared by several studies.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} is the attention matrix of head h in layer l, and
* is the elementwise product. I_l(i, j) is the flow from position j to position i. The diagonal is ignored.

The backward pass starts from dL/dz = p - y at the logits z of the label words, where p are their probabilities and y is the
indicator of the gold label. This gradient is very small if the model is confident, and the still smaller gradients of the
backward pass would underflow in float16. Each prompt therefore starts from its own multiple of the gradient, a power of two.
Results computed from its I_l must be divided by this multiple in float64.
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
"""Names of the means of eq. 2 to 4, see :mod:`icl_lens.studies.anchors.saliency.compute`."""


def measure(
    model: LanguageModel, batch: Batch, sink: FlowSink, with_weights: bool = False, per_head: bool = False
) -> np.ndarray:
    """Pass each layer's information flow in a batch of full prompts to ``sink``, starting with the last layer.

    Args:
        model: Model of a supported family (:func:`icl_lens.attention.supported.require_supported`).
        batch: A batch without prefix.
        sink: Called with a layer, a multiple of its I_l, float32 or wider, shape (B, T, T), and the mean over heads of the
            attention weights, of the same shape, or None. The flow to padding is zero, because padding does not affect the
            loss. The diagonal follows eq. 1 and is not set to zero.
        with_weights: Whether to pass the mean attention weights.
        per_head: Whether to pass A_{h,l} * dL/dA_{h,l} and A_{h,l} of each head instead, shape (B, H, T, T) each, with
            ``with_weights``.

    Returns:
        The multiples, powers of two, shape (B,), float64.
    """
    # The loss depends only on the last position, but the mean attention weights need all rows.
    rows = batch.last if model.supports_single_row and not with_weights else None  # (B,)
    with flows(model.network, sink, with_weights, rows, per_head):
        logits = class_logits(model, batch)  # (B, C)
        logit_gradient, multiple = _scaled_gradient(logits, batch.gold)  # (B, C), (B,)
        logits.backward(logit_gradient.to(logits.dtype).to(logits.device))  # cast on the CPU: some devices lack float64
    return multiple.numpy()


class EdgeMeans:
    """Label-word positions of a batch, and the mean information flow along each of the three kinds of edges.

    The device sums each row of a matrix in the number format of the flow. The CPU sums over rows in float64, which some devices
    do not support.
    """

    def __init__(self, batch: Batch, prompts: Sequence[TokenizedPrompt]) -> None:
        # One entry per label word of the batch, M in total, in the order of the prompts.
        self.row = torch.cat([torch.full((len(p.anchors),), b) for b, p in enumerate(prompts)])  # (M,)
        self.position = torch.cat([torch.from_numpy(p.anchors) for p in prompts])  # (M,)
        self.last = batch.last.cpu()  # (B,)
        self.prompts = torch.arange(len(self.last))  # (B,)
        # Rows with individually needed entries: first those of the label words, then those of the last positions.
        rows, positions = torch.cat([self.row, self.prompts]), torch.cat([self.position, self.last])  # (M + B,) each
        self.row_index = rows.to(batch.ids.device), positions.to(batch.ids.device)
        self.edges_wp = self._per_prompt(self.position.double())  # (B,): position p has p edges to earlier ones
        self.edges_pq = self._per_prompt(torch.ones_like(self.position).double())  # (B,)
        last = self.last.double()
        self.edges_ww = last * (last + 1) / 2 - self.edges_wp - self.edges_pq  # (B,)

    def compute(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean information flow along each kind of edge, and the part of the first mean from the first token.

        Args:
            flow: I_l of each prompt, shape (B, T, T). The flow to padding is zero, because padding does not affect the loss.

        Returns:
            The means, shape (3, B), and the sum over k of I_l(p_k, 0) divided by the number of edges of S_wp, shape (B,). Both
            are float64 on the CPU.
        """
        below = flow.tril(-1)  # (B, T, T); a causal model has no flow above the diagonal
        needed = (
            torch.cat([below.sum(-1), below[tuple(x.to(flow.device) for x in self.row_index)]]).cpu().double()
        )  # (B + M + B, T)
        rest, into, from_last = needed.split([len(self.last), len(self.row), len(self.last)])  # (B, T), (M, T), (B, T)
        rest[self.row, self.position] = 0
        rest[self.prompts, self.last] = 0
        wp, wp_first = self._per_prompt(into.sum(-1)), self._per_prompt(into[:, 0])  # (B,) each
        pq = self._per_prompt(from_last[self.row, self.position])  # (B,)
        from_last[self.row, self.position] = 0
        ww = rest.sum(-1) + from_last.sum(-1)  # (B,)
        return torch.stack([wp / self.edges_wp, pq / self.edges_pq, ww / self.edges_ww]), wp_first / self.edges_wp

    def _per_prompt(self, values: Tensor) -> Tensor:
        """Sum one value per label word, shape (M,), over the label words of each prompt, shape (B,)."""
        return values.new_zeros(len(self.last)).index_add_(0, self.row, values)


def require_demonstrations(prompts: Sequence[TokenizedPrompt], measurement: str = "saliency") -> None:
    """Check that all prompts have label words.

    Args:
        prompts: The prompts.
        measurement: What requires label words, for the error message.

    Raises:
        InputError: A prompt has no demonstration.
    """
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but {measurement} requires label words; use prompts with "
            "demonstrations"
        )


def require_finite(model: LanguageModel, prompts: Sequence[TokenizedPrompt], finite: np.ndarray) -> None:
    """Check that the backward pass stayed within the range of the model's number format.

    Args:
        model: The model; the error message contains its number format.
        prompts: The N prompts.
        finite: Whether all results from a prompt's flow are finite, shape (N,).

    Raises:
        InputError: A prompt has a non-finite result.
    """
    if not finite.all():
        raise InputError(
            f"the saliency of {(~finite).sum()} of {len(prompts)} prompts (for example prompt "
            f"{prompts[int(finite.argmin())].prompt_id}) exceeds the range of "
            f"{str(model.network.dtype).removeprefix('torch.')}; set dtype to float32"
        )


def _scaled_gradient(logits: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of the backward pass: for each prompt, dL/dz scaled so that its largest entry is in [0.5, 1).

    Args:
        logits: z, shape (B, C).
        gold: The gold label, shape (B,).

    Returns:
        The multiples of dL/dz, shape (B, C), and the powers of two, shape (B,), both float64.
    """
    gradient = logits.detach().cpu().double().softmax(-1)  # (B, C); some devices lack float64
    gold = gold.cpu()[:, None]  # (B, 1)
    # The gold label's entry is p - 1. Summing the other entries avoids a zero when p rounds to 1.
    gradient.scatter_(1, gold, -gradient.scatter(1, gold, 0.0).sum(-1, keepdim=True))
    _, exponent = gradient.abs().amax(-1).frexp()  # (B,): the largest entry divided by two to this power is in [0.5, 1)
    multiple = 2.0 ** -exponent.double()  # (B,); 1 if the gradient is 0
    return gradient * multiple[:, None], multiple
