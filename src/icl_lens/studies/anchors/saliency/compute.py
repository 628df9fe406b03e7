"""Information flow by saliency: S_wp, S_pq and S_ww in each layer (*Label Words are Anchors*, section 2.1, eq. 1-4).

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

L is the cross-entropy of the query's gold label over the label words, A_{h,l} is the attention matrix of head h in layer l, and
* is the elementwise product. The diagonal of I_l is set to 0. With p_k the position of the k-th demonstration's label word, q
the last position, and positions counted from 0,

    S_wp = mean of I_l(p_k, j) over k and j < p_k          flow from the text to label words                  (eq. 2)
    S_pq = mean of I_l(q, p_k) over k                      flow from label words to the last position         (eq. 3)
    S_ww = mean of I_l(i, j) over all other j < i          flow between all other words                       (eq. 4)

If a label word has several anchors, or if classes are predicted by whole label words, the sums are over the edges of
:mod:`icl_lens.models.edges`.

The table contains these raw means for each prompt and layer. It also contains variants that are not in the paper:

    s_wp_visible, s_pq_visible, s_ww_visible    the means over the edges that can exist in the layer: in a layer with a sliding
                                                window, an edge from outside the window carries no flow, but eq. 2 to 4 count it
    s_wp_bos                                    the part of s_wp from a BOS token at position 0, which eq. 2 counts as text
    s_wp_no_bos                                 eq. 2 over j from 1 if the token at position 0 is a BOS token

:mod:`icl_lens.studies.anchors.saliency.summary` computes the shares and averages for the figures.

:mod:`icl_lens.models.information_flow` computes I_l.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.models import information_flow
from icl_lens.models.batching import batches
from icl_lens.models.edges import count_edges, count_visible_edges
from icl_lens.models.information_flow import METRICS, EdgeMeans
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Compute the three means and their variants for each prompt and layer.

    Args:
        model, prompts, batch_tokens, progress: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, the model's family is not supported, or the range of its number format is too
            small.

    Returns:
        One row per prompt and layer, in this order: prompt_id, layer (from 0), s_wp, s_pq, s_ww, s_wp_visible, s_pq_visible,
        s_ww_visible, s_wp_bos, s_wp_no_bos. A mean over no edges is 0. Without a BOS token, s_wp_bos is 0 and s_wp_no_bos is
        s_wp.
    """
    layers = model.layers
    information_flow.require_demonstrations(prompts)
    require_supported(model.network)
    means = np.full((len(METRICS), len(prompts), layers), np.nan)  # (3, N, L)
    first = np.full((len(prompts), layers), np.nan)  # (N, L): the part of S_wp from position 0
    for batch in batches(model, prompts, batch_tokens, kept="graph", score=True):
        edges = EdgeMeans(batch, prompts)

        def sink(layer: int, flow: Tensor, mean: None, edges=edges) -> None:
            means[:, edges.prompts, layer], first[edges.prompts, layer] = (values.numpy() for values in edges.compute(flow))

        multiple = information_flow.measure(model, batch, sink)[batch.first_rows]  # (N',)
        means[:, edges.prompts] /= multiple[:, None]
        first[edges.prompts] /= multiple[:, None]
        progress(len(edges.prompts))
    needed = np.array([p.needed for p in prompts])  # (N,)
    information_flow.require_finite(model, prompts, ~needed | np.isfinite(means).all((0, 2)))
    every = count_edges(prompts)  # (3, N)
    visible = count_visible_edges(model, prompts)  # (3, N, L)
    scale = every[..., None] / np.maximum(visible, 1)  # (3, N, L); the flow along edges that cannot exist is 0
    has_bos = np.array([p.ids[0] == model.tokenizer.bos_token_id for p in prompts])[:, None]  # (N, 1)
    from_bos = np.where(has_bos, first, 0)  # (N, L)
    edges_wp, bos_edges = every[0][:, None], np.array([len(p.anchors) for p in prompts])[:, None]  # (N, 1) each
    without_bos = (means[0] - from_bos) * edges_wp / np.maximum(edges_wp - bos_edges, 1)  # (N, L)
    columns = {
        **dict(zip(METRICS, means, strict=True)),
        **{f"{metric}_visible": values for metric, values in zip(METRICS, means * scale, strict=True)},
        "s_wp_bos": from_bos,
        "s_wp_no_bos": np.where(has_bos, without_bos, means[0]),
    }
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], layers),
            "layer": np.tile(np.arange(layers), len(prompts)),
            **{name: values.ravel() for name, values in columns.items()},
        }
    )
