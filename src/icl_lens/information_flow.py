"""Information flow by saliency (*Label Words are Anchors*, section 2.1, eq. 1), for every study that looks at it.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} the attention matrix of head h in layer l and
* the elementwise product. I_l(i, j) is what flows from position j to position i; the diagonal counts for nothing.

The backward pass starts from dL/dz = p - y at the label words' logits z, with p their probabilities and y the gold label's
indicator. A confident answer makes it tiny, and in float16 what is far smaller yet on its way back would vanish. So each
prompt starts from its own multiple of it, a power of two; what is made of its I_l is to be divided by that in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from icl_lens.attention import differentiate
from icl_lens.errors import InputError
from icl_lens.models import Batch, LanguageModel, class_logits
from icl_lens.positions import TokenizedPrompt
from icl_lens.precision import at_least_float32


def measure(model: LanguageModel, batch: Batch, sink: Callable[[int, Tensor], None]) -> np.ndarray:
    """Hand ``sink`` each layer's information flow in a batch of whole prompts, last layer first.

    Args:
        model: Of a supported family (:func:`icl_lens.attention.require_supported`).
        batch: It has no prefix.
        sink: Told a layer and a multiple of its I_l, float32 at least, shape (B, T, T). What flows to padding is zero, for
            nothing there reaches the loss; the diagonal is as eq. 1 has it.

    Returns:
        The multiples, powers of two, shape (B,), float64.
    """

    def tap(layer: int, weights: Tensor, gradient: Tensor) -> None:
        sink(layer, (at_least_float32(weights) * at_least_float32(gradient)).sum(1).abs_())  # (B, T, T)

    with differentiate(model.network, tap):
        logits = class_logits(model, batch)  # (B, C)
        start, multiple = _start(logits, batch.gold)  # (B, C), (B,)
        logits.backward(start.to(logits.dtype))
    return multiple.numpy()


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
