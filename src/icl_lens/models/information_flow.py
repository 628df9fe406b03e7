"""Information flow by saliency (*Label Words are Anchors*, section 2.1, eq. 1), shared by several studies.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} is the attention matrix of head h in layer l, and
* is the elementwise product. I_l(i, j) is the flow from position j to position i. The diagonal is ignored.

The backward pass starts from dL/dz = p - y at the logits z of the label words, where p are their probabilities and y is the
indicator of the gold label. This gradient is very small if the model is confident, and the still smaller gradients of the
backward pass would underflow in float16. Each prompt therefore starts from its own multiple of the gradient, a power of two.
Results computed from its I_l must be divided by this multiple in float64.

If classes are predicted by their whole label words (``label_score: whole``), z are the scores of
:mod:`icl_lens.prompts.label_words`, and the matrices also have the rows and columns of the appended tokens. A prompt with
several paths has one row of the batch per path. The gradients with respect to an attention weight that several paths share,
such as each weight between tokens of the prompt, are added before the absolute value: eq. 1 applies to the tree of all paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from icl_lens.attention.flow import FlowSink, flows
from icl_lens.errors import InputError
from icl_lens.models.batching import Batch
from icl_lens.models.edges import count_edges
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
        batch: A batch for scores (``score=True``) without prefix.
        sink: Called with a layer, a multiple of its I_l, float32 or wider, shape (B, T, T), and the mean over heads of the
            attention weights, of the same shape, or None. The flow to padding is zero, because padding does not affect the
            loss. The diagonal follows eq. 1 and is not set to zero. Rows of the matrices that several rows of the batch share
            are zero in all of them but the first.
        with_weights: Whether to pass the mean attention weights.
        per_head: Whether to pass A_{h,l} * dL/dA_{h,l} and A_{h,l} of each head instead, shape (B, H, T, T) each, with
            ``with_weights``.

    Returns:
        The multiples, powers of two, shape (B,), float64.
    """
    # The loss depends only on the last position, but the mean attention weights need all rows.
    single = batch.appended is None and model.supports_single_row and not with_weights
    rows = batch.last if single else None  # (B,)
    with batch_flows(model, batch, sink, with_weights, rows, per_head):
        logits = class_logits(model, batch)  # (B, C)
        logit_gradient, multiple = _scaled_gradient(logits, batch.gold)  # (B, C), (B,)
        repeated = [row for row in range(len(batch.index)) if row not in set(batch.first_rows)]
        logit_gradient[repeated] = 0  # rows of the same prompt have the same scores, and the loss of a prompt counts once
        logits.backward(logit_gradient.to(logits.dtype).to(logits.device))  # cast on the CPU: some devices lack float64
    return multiple.numpy()


def batch_flows(
    model: LanguageModel,
    batch: Batch,
    sink: FlowSink,
    with_weights: bool = False,
    rows: Tensor | None = None,
    per_head: bool = False,
) -> AbstractContextManager[None]:
    """Return the context in which a forward and a backward pass give ``sink`` the information flow of a batch.

    The flow along an edge that several rows of the batch share is added in the first of these rows and zero in the others.

    Args:
        model: See :func:`measure`.
        batch: See :func:`measure`.
        sink: See :func:`measure`. It gets the flow of the loss of this backward pass.
        with_weights: See :func:`measure`.
        rows: See :func:`icl_lens.attention.flow.flows`.
        per_head: See :func:`measure`.
    """
    shared = _shared_rows(batch)

    def add(layer: int, flow: Tensor, weights: Tensor | None) -> None:
        for row, first, length in shared:
            flow[first, ..., :length, :] += flow[row, ..., :length, :]
            flow[row, ..., :length, :] = 0
        sink(layer, flow if per_head else flow.abs_(), weights)

    return flows(model.network, add if shared else sink, with_weights, rows, per_head, signed=bool(shared))


def _shared_rows(batch: Batch) -> list[tuple[int, int, int]]:
    """Return the rows of a batch whose first positions also belong to an earlier row of the same prompt.

    Returns:
        The row, the earlier row, and the number of these positions, in an order in which the values of the positions can be
        added to the earlier row one after another.
    """
    found = []
    if batch.appended is not None:
        repeated = batch.appended.repeated.cpu()  # (E,)
        rows, positions = batch.appended.rows.cpu()[repeated], batch.appended.positions.cpu()[repeated]
        lengths = {row: int(positions[rows == row].max()) + 1 for row in set(rows.tolist())}
        for row in sorted(lengths, reverse=True):
            beginning = batch.ids[row, : lengths[row]]
            first = next(
                other
                for other in range(row)
                if batch.index[other] == batch.index[row] and torch.equal(batch.ids[other, : lengths[row]], beginning)
            )
            found.append((row, first, lengths[row]))
    return found


def within_prompt(batch: Batch, prompt: TokenizedPrompt, number: int, flow: Tensor) -> np.ndarray:
    """Return the information flow of one prompt, with the flow to appended tokens as flow to the last position.

    Args:
        batch: The batch of :func:`measure`.
        prompt: The prompt, of T tokens.
        number: Number of the prompt among those of the batch.
        flow: A multiple of I_l of each row of the batch, shape (B, ..., T', T').

    Returns:
        The flow between the tokens of the prompt, float64 on the CPU, shape (..., T, T), zero on and above the diagonal.
    """
    length = len(prompt.ids)
    found = flow[batch.first_rows[number]][..., :length, :length].cpu().double()  # (..., T, T)
    if batch.appended is not None:
        entries = zip(batch.appended.rows.tolist(), batch.appended.positions.tolist(), batch.appended.repeated, strict=True)
        for row, position, repeated in entries:
            if batch.index[row] == batch.prompts[number] and position > prompt.last and not repeated:
                found[..., prompt.last, :] += flow[row][..., position, :length].cpu().double()
    return np.tril(found.numpy(), -1)


class EdgeMeans:
    """Label-word positions of a batch of N prompts, and the mean information flow along each of the three kinds of edges.

    The device sums each row of a matrix in the number format of the flow. The CPU sums over rows in float64, which some devices
    do not support. The kinds of edges are those of :mod:`icl_lens.models.edges`.

    Args:
        batch: The batch of :func:`measure`.
        prompts: All prompts that the indices of the batch refer to.

    Attributes:
        prompts: Index of each of the N prompts.
    """

    def __init__(self, batch: Batch, prompts: Sequence[TokenizedPrompt]) -> None:
        self.prompts = batch.prompts
        numbers = {i: number for number, i in enumerate(self.prompts)}
        self.number_of_row = torch.tensor([numbers[i] for i in batch.index])  # (B,)
        chosen = [prompts[i] for i in self.prompts]
        # One entry per anchor of the batch, M in total, in the order of the prompts. Their edges are in the first row.
        self.row = torch.cat([torch.full((len(p.anchors),), b) for b, p in zip(batch.first_rows, chosen, strict=True)])  # (M,)
        self.position = torch.cat([torch.from_numpy(p.anchors) for p in chosen])  # (M,)
        starts = torch.cat([torch.from_numpy(p.anchor_starts) for p in chosen])  # (M,)
        # Edges between anchors of the same label word: their entry and their column.
        ranges = zip(starts.tolist(), self.position.tolist(), strict=True)
        within = [(entry, j) for entry, (start, p) in enumerate(ranges) for j in range(start, p)]
        self.within = torch.tensor(within, dtype=torch.int64).reshape(-1, 2).T  # (2, W)
        # One entry per predicting position, R in total.
        if batch.appended is None:
            self.target_row, self.target = torch.arange(len(batch.index)), batch.last.cpu()  # (R,) each
        else:
            owned = ~batch.appended.repeated.cpu()
            self.target_row, self.target = (each.cpu()[owned] for each in (batch.appended.rows, batch.appended.positions))
        # One entry per edge from an anchor to a predicting position: the predicting position and the anchor.
        of_prompt = [chosen[number].anchors for number in self.number_of_row[self.target_row].tolist()]
        self.edge_target = torch.cat([torch.full((len(anchors),), target) for target, anchors in enumerate(of_prompt)])  # (E,)
        self.edge_anchor = torch.cat([torch.from_numpy(anchors) for anchors in of_prompt])  # (E,)
        # Rows with individually needed entries: first those of the anchors, then those of the predicting positions.
        rows, positions = torch.cat([self.row, self.target_row]), torch.cat([self.position, self.target])  # (M + R,) each
        self.row_index = rows.to(batch.ids.device), positions.to(batch.ids.device)
        self.edges_wp, self.edges_pq, self.edges_ww = torch.from_numpy(count_edges(chosen)).double()  # (N,) each

    def compute(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean information flow along each kind of edge, and the part of the first mean from the first token.

        Args:
            flow: I_l of each row of the batch, shape (B, T, T). The flow to padding is zero, because padding does not affect
                the loss.

        Returns:
            The means, shape (3, N), and the sum over k of I_l(p_k, 0) divided by the number of edges of S_wp, shape (N,). Both
            are float64 on the CPU.
        """
        below = flow.tril(-1)  # (B, T, T); a causal model has no flow above the diagonal
        needed = (
            torch.cat([below.sum(-1), below[tuple(x.to(flow.device) for x in self.row_index)]]).cpu().double()
        )  # (B + M + R, T)
        rest, into, at_targets = needed.split([len(flow), len(self.row), len(self.target_row)])  # (B, T), (M, T), (R, T)
        rest[self.row, self.position] = 0
        rest[self.target_row, self.target] = 0
        within = into[*self.within]  # (W,)
        into[*self.within] = 0
        of_anchor = self.number_of_row[self.row]  # (M,)
        of_target = self.number_of_row[self.target_row]  # (R,)
        wp, wp_first = (self._per_prompt(each, of_anchor) for each in (into.sum(-1), into[:, 0]))  # (N,) each
        pq = self._per_prompt(at_targets[self.edge_target, self.edge_anchor], of_target[self.edge_target])  # (N,)
        at_targets[self.edge_target, self.edge_anchor] = 0
        ww = self._per_prompt(rest.sum(-1), self.number_of_row) + self._per_prompt(at_targets.sum(-1), of_target)  # (N,)
        ww += self._per_prompt(within, of_anchor[self.within[0]])
        return torch.stack([wp / self.edges_wp, pq / self.edges_pq, ww / self.edges_ww]), wp_first / self.edges_wp

    def _per_prompt(self, values: Tensor, numbers: Tensor) -> Tensor:
        """Sum values over the prompts with some numbers, shape (M,) each; the result has shape (N,)."""
        return values.new_zeros(len(self.prompts)).index_add_(0, numbers, values)


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
