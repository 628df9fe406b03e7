"""Information flow by saliency: S_wp, S_pq and S_ww in each layer (*Label Words are Anchors*, section 2.1, eq. 1-4).

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} is the attention matrix of head h in layer l, and
* is the elementwise product. The diagonal of I_l is set to 0. With p_k the position of the k-th demonstration's label word, q
the last position, and positions counted from 0,

    S_wp = mean of I_l(p_k, j) over k and j < p_k          flow from the text to label words                  (eq. 2)
    S_pq = mean of I_l(q, p_k) over k                      flow from label words to the last position         (eq. 3)
    S_ww = mean of I_l(i, j) over all other j < i          flow between all other words                       (eq. 4)

The table contains these raw means for each prompt and layer. :mod:`icl_lens.studies.anchors.saliency.summary` computes the
shares and averages for the figures.

:mod:`icl_lens.studies.anchors.information_flow` computes I_l.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import information_flow
from icl_lens.studies.anchors.information_flow import METRICS, EdgeMeans


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Compute the three means for each prompt and layer.

    Args:
        model, prompts, batch_tokens, progress: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or the range of its number format is too
            small.

    Returns:
        One row per prompt and layer, in this order: prompt_id, layer (from 0), s_wp, s_pq, s_ww.
    """
    layers = model.layers
    information_flow.require_demonstrations(prompts)
    require_supported(model.network)
    means = np.full((len(METRICS), len(prompts), layers), np.nan)  # (3, N, L)
    for batch in batches(model, prompts, batch_tokens, kept="graph"):
        edges = EdgeMeans(batch, [prompts[i] for i in batch.index])

        def sink(layer: int, flow: Tensor, mean: None, rows=batch.index, edges=edges) -> None:
            means[:, rows, layer] = edges.compute(flow).numpy()

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
