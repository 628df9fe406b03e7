"""Measures of a demonstration that are computed from the prompt with all demonstrations.

With p_i the anchor of demonstration i (the first token of its label word), q the last position, L the loss of the gold class
(:mod:`icl_lens.studies.challenges.margin`), and A_{h,l} the attention of head h in layer l:

    saliency_label     sum_l | sum_h A_{h,l} dL/dA_{h,l} | (q, p_i)                    *Label Words are Anchors*, eq. 1
    saliency_text      the same, summed over the edges (p_i, j) to the tokens j of the demonstration's text
    saliency_forecast  - sum_l sum_h A_{h,l} dL/dA_{h,l} (q, p_i): to first order, the loss that this edge prevents
    attention          mean over l and h of A_{h,l}(q, p_i)
    kernel             mean over l and h of a_i / sum_j a_j, with a_i the largest attention of q to a token of the demonstration
                       (Han et al., arXiv 2305.12766; they choose one head on other prompts)
    detail             influence of the demonstration in a ridge regression on the states of the middle layer (see below)
    place              index of the demonstration
    random             a random number, as a baseline

If a demonstration has several anchors (``label_anchor: all``), the first four measures are summed over them, because saliency
and attention are defined for each edge. If classes are predicted by their whole label words (``label_score: whole``), q in the
saliencies is the last position and each appended token, because each of them predicts a token
(:mod:`icl_lens.models.information_flow`), and the saliencies are summed over these edges. ``attention`` and ``kernel`` use the
last position of the prompt only, as :mod:`icl_lens.studies.kernel_regression.demonstration_attention` does. ``kernel`` and
``detail`` do not depend on the anchors.

*DETAIL* (Zhou et al., arXiv 2405.14899; its code is BobbyZhouZijian/detail_release): the state x_i is that of the token before
the first token of the label word, x_q that of the last position, in the layer of 15/32 of the depth. W is the ridge regression
of the one-hot labels Y on the states X of the demonstrations, with alpha = 1. The score of demonstration i is

    tr( g_q' (X'X + alpha I)^-1 g_i ),     g = x (x'W - y') + alpha W

with the gold label as y_q. A high score means that the demonstration lowers the loss of the query. The paper can project the
states to 1,000 random dimensions first; here they are not projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icl_lens.errors import InputError
from icl_lens.models.batching import Batch, batches
from icl_lens.models.information_flow import batch_flows
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits
from icl_lens.network import layer_states
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.demonstration_places import Places, places
from icl_lens.prompts.positions import TokenizedPrompt, tokens_of
from icl_lens.studies.challenges.margin import margin

_ALPHA = 1.0

# Maximum number of attention weights that a batch computes in one layer, over all heads.
_WEIGHTS = 2**25


def middle_layer(layers: int) -> int:
    """Return the number of layers before the states of DETAIL: 15 of 32, rounded, at least 1."""
    return max(1, round(15 / 32 * layers))


def measure(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], index: Sequence[int], batch_tokens: int
) -> dict[int, dict[str, np.ndarray]]:
    """Compute the measures of some prompts that need the model, in one forward and one backward pass.

    Args:
        model: A model of a supported family.
        prompts: All prompts.
        index: Indices of the prompts to measure.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.

    Raises:
        InputError: The backward pass exceeds the range of the model's number format.

    Returns:
        For each prompt of the batches with a needed prompt, the values of its D demonstrations, shape (D,) each.
    """
    longest = max(len(prompts[i].ids) + prompts[i].appended for i in index)
    budget = min(batch_tokens, max(1, _WEIGHTS // (model.sizes.heads * longest)))
    layer = middle_layer(model.layers)
    found: dict[int, dict[str, np.ndarray]] = {}
    for batch in batches(model, prompts, budget, index, kept="graph", score=True):
        sums = [_Sums(prompts[i], _targets(batch, number)) for number, i in enumerate(batch.prompts)]

        def sink(number: int, products: Tensor, weights: Tensor | None, sums: Sequence[_Sums] = sums) -> None:
            for each in sums:
                each.add(products, weights)

        with (
            layer_states.record(model.network, [layer]) as states,
            batch_flows(model, batch, sink, with_weights=True, per_head=True),
        ):
            scores = at_least_float32(class_logits(model, batch))  # (B, C)
            # Rows of the same prompt have the same scores, and the margin of a prompt counts once.
            margins = margin(scores, batch.gold)[batch.first_rows]  # (N,)
            # The gradient of the margin does not vanish where the loss is small: dL/dm = -1 / (1 + exp(m)).
            margins.sum().backward()
        slopes = -torch.sigmoid(-margins.detach().cpu().double()).numpy()  # (N,)
        hidden = states[layer].values.detach()  # (B, T, D)
        for number, (row, i) in enumerate(zip(batch.first_rows, batch.prompts, strict=True)):
            found[i] = sums[number].results(float(slopes[number]), model.layers)
            found[i]["detail"] = _detail(prompts[i], at_least_float32(hidden[row]).cpu().double().numpy())
            if not all(np.isfinite(values).all() for values in found[i].values()):
                raise InputError(
                    f"the saliency of prompt {prompts[i].prompt_id} exceeds the range of "
                    f"{str(model.network.dtype).removeprefix('torch.')}; set dtype to float32"
                )
    return found


class _Targets(NamedTuple):
    """Predicting positions of a prompt in a batch: the last position and the appended tokens, the last position first.

    Attributes:
        rows: Their rows in the batch, shape (R,).
        positions: Their positions in the rows, shape (R,).
    """

    rows: list[int]
    positions: list[int]


def _targets(batch: Batch, number: int) -> _Targets:
    """Return the predicting positions of a prompt, given its number among those of the batch, each of them once."""
    first = batch.first_rows[number]
    if batch.appended is None:
        return _Targets([first], [int(batch.last[first])])
    of_prompt = {row for row, i in enumerate(batch.index) if i == batch.prompts[number]}
    entries = zip(
        *(each.tolist() for each in (batch.appended.rows, batch.appended.positions, batch.appended.repeated)), strict=True
    )
    found = [(row, position) for row, position, repeated in entries if row in of_prompt and not repeated]
    return _Targets(*map(list, zip(*found, strict=True)))


class _Sums:
    """Sums of one prompt's measures over the layers. With D demonstrations, each has shape (D,)."""

    def __init__(self, prompt: TokenizedPrompt, targets: _Targets) -> None:
        self.row, self.last, self.targets = targets.rows[0], prompt.last, targets
        self.anchors = torch.from_numpy(prompt.anchors)  # (A,)
        self.owners = prompt.anchor_demonstrations  # (A,)
        self.places: Places = places(prompt, drop_first=False)
        self.texts = [torch.from_numpy(tokens_of(prompt, [span])) for span in prompt.text_spans]
        self.label, self.text, self.forecast, self.attention, self.kernel = np.zeros((5, len(prompt.demo_labels)))

    def add(self, products: Tensor, weights: Tensor) -> None:
        """Add a layer.

        Args:
            products: A dm/dA of each head in the rows of the batch, shape (B, H, T, T).
            weights: A of each head, of the same shape.
        """
        into = products[self.row][:, self.anchors.tolist()].sum(0).cpu().double()  # (A, T)
        at_targets = [products[row, :, position].sum(0) for row, position in zip(*self.targets, strict=True)]  # (T,) each
        from_label = torch.stack(at_targets).cpu().double()[:, self.anchors]  # (R, A)
        self.label += self._per_demonstration(from_label.abs().sum(0).numpy())
        self.forecast += self._per_demonstration(from_label.sum(0).numpy())
        of_anchors = [into[i, self.texts[owner]].abs().sum().item() for i, owner in enumerate(self.owners)]
        self.text += self._per_demonstration(np.array(of_anchors))
        row = weights[self.row, :, self.last].cpu().double().numpy()  # (H, T)
        self.attention += self._per_demonstration(row[:, self.anchors].mean(0))
        spans = zip(self.places.starts, self.places.stops, strict=True)
        largest = np.stack([row[:, start:stop].max(-1) for start, stop in spans], -1)  # (H, D)
        total = largest.sum(-1, keepdims=True)  # (H, 1)
        equal = np.full_like(largest, 1 / largest.shape[1])
        self.kernel += np.divide(largest, total, out=equal, where=total > 0).mean(0)

    def _per_demonstration(self, values: np.ndarray) -> np.ndarray:
        """Sum values of the anchors, shape (A,), over the anchors of each demonstration, shape (D,)."""
        return np.bincount(self.owners, values, minlength=len(self.label))

    def results(self, slope: float, layers: int) -> dict[str, np.ndarray]:
        """Return the measures; ``slope`` is dL/dm."""
        return {
            "saliency_label": self.label * abs(slope),
            "saliency_text": self.text * abs(slope),
            "saliency_forecast": -self.forecast * slope,
            "attention": self.attention / layers,
            "kernel": self.kernel / layers,
        }


def _detail(prompt: TokenizedPrompt, states: np.ndarray) -> np.ndarray:
    """Return the scores of DETAIL, shape (D,), from the states of the tokens, shape (T, width)."""
    classes = np.eye(len(prompt.label_ids))  # (C, C)
    x, targets = states[np.maximum(prompt.label_starts - 1, 0)], classes[prompt.demo_labels]  # (D, width), (D, C)
    query = states[prompt.last]  # (width,)
    # W = X' dual, because the width can be much larger than D.
    kernel = x @ x.T  # (D, D)
    dual = np.linalg.solve(kernel + _ALPHA * np.eye(len(x)), targets)  # (D, C)
    weights = x.T @ dual  # (width, C)

    def gradient(state: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.outer(state, state @ weights - target) + _ALPHA * weights  # (width, C)

    of_query = gradient(query, classes[prompt.gold])  # (width, C)
    # (X'X + alpha I)^-1 g = (g - X' (X X' + alpha I)^-1 X g) / alpha
    solved = np.linalg.solve(kernel + _ALPHA * np.eye(len(x)), x @ of_query)  # (D, C)
    influence = (of_query - x.T @ solved) / _ALPHA  # (width, C)
    return np.array([(influence * gradient(*pair)).sum() for pair in zip(x, targets, strict=True)])
