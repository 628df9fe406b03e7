"""Information flow I_l(i, j) of a few prompts along each relevant edge.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                       (*Label Words are Anchors*, section 2.1, eq. 1)

:mod:`icl_lens.models.information_flow` computes I_l. The paper's Figure 1 draws two layers of one prompt. An edge goes
from position j to a later position i; the diagonal is ignored. Edges with a small share of the layer's flow and a small
attention weight are omitted. Each row contains the total flow of the layer, so that the omitted flow can be computed. Each row
also contains the attention weight of the edge, and S_wp, S_pq and S_ww (eq. 2 to 4) of the layer. If tokens of label words are
appended to the prompt (``label_score: whole``), the flow from a token of the prompt to an appended token counts as flow to the
last position, because both predict tokens of label words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import information_flow
from icl_lens.models.batching import batches
from icl_lens.models.information_flow import METRICS, EdgeMeans
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.flow.study import Settings


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the information flow along the edges of the selected prompts.

    Args:
        model, batch_tokens, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`. The settings select
            the prompts.
        prompts: Prompts that fit the model's context.
        progress: Called after each batch with its number of prompts, and at the end with the number of prompts that were not
            selected.

    Raises:
        InputError: A requested prompt does not exist, a selected prompt has no demonstration, the model's family is not
            supported, or the range of its number format is too small.

    Returns:
        One row per prompt, layer and edge, in this order: prompt_id, layer (from 0), query (position i), key (position j < i),
        saliency (I_l(i, j)), attention (mean over heads of A_{h,l}(i, j)), layer_total (sum of I_l over all edges of the layer,
        including omitted edges), s_wp, s_pq, s_ww (of the layer). Edges are sorted by query, then by key. Each layer has at
        least one edge.
    """
    settings = settings or Settings()
    selected = select_prompts(prompts, settings)
    information_flow.require_demonstrations(selected)
    require_supported(model.network)
    layers = model.layers
    found: dict[tuple[int, int], dict[str, Any]] = {}  # (prompt index, layer) -> columns of its edges
    for batch in batches(model, selected, batch_tokens, kept="graph", score=True):
        edge_means = EdgeMeans(batch, selected)

        def sink(layer: int, flow: Tensor, attention: Tensor, batch=batch, edge_means=edge_means) -> None:
            means = edge_means.compute(flow)[0].numpy()  # (3, N)
            for number, (row, i) in enumerate(zip(batch.first_rows, batch.prompts, strict=True)):
                length = len(selected[i].ids)
                weights = np.tril(attention[row, :length, :length].cpu().double().numpy(), -1)  # (T, T)
                below = information_flow.within_prompt(batch, selected[i], number, flow)  # (T, T)
                found[i, layer] = _select_edges(below, weights, settings) | dict(
                    zip(METRICS, means[:, number].tolist(), strict=True)
                )

        multiple = information_flow.measure(model, batch, sink, with_weights=True)[batch.first_rows]  # (N,)
        for i, factor in zip(batch.prompts, multiple, strict=True):
            for layer in range(layers):
                for name in ("saliency", "layer_total", *METRICS):
                    found[i, layer][name] = found[i, layer][name] / factor
        progress(len(batch.prompts))
    finite = [all(np.isfinite(found[i, layer]["layer_total"]) for layer in range(layers)) for i in range(len(selected))]
    information_flow.require_finite(model, selected, np.array(finite))
    progress(len(prompts) - len(selected))
    edges = [
        pd.DataFrame({"prompt_id": prompt.prompt_id, "layer": layer, **found[i, layer]})
        for i, prompt in enumerate(selected)
        for layer in range(layers)
    ]
    return pd.concat(edges, ignore_index=True)


def select_prompts(prompts: Sequence[TokenizedPrompt], settings: Settings) -> list[TokenizedPrompt]:
    """Return the selected prompts, in order of prompt_id or of the prompts, followed by the additional prompts (``also``).

    Raises:
        InputError: A requested prompt does not exist.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    missing = next((number for number in (*(settings.prompt_ids or ()), *settings.also) if number not in by_id), None)
    if missing is not None:
        raise InputError(
            f"prompt {missing} (items.*.prompt, studies.flow.prompt_ids or studies.flow.also) does not exist or is longer "
            f"than the model's context; choose a prompt_id from {min(by_id)} to {max(by_id)}"
        )
    if settings.prompt_ids is not None:
        selected = sorted(set(settings.prompt_ids))
    else:
        by_seed: dict[int, list[int]] = {}
        for prompt in prompts:
            by_seed.setdefault(prompt.seed, []).append(prompt.prompt_id)
        selected = [number for group in list(by_seed.values())[: settings.seeds] for number in group[: settings.prompts]]
    return [by_id[number] for number in dict.fromkeys([*selected, *sorted(settings.also)])]


def _select_edges(flow: np.ndarray, attention: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return the edges of one layer that are kept.

    Args:
        flow: A multiple of I_l below the diagonal, shape (T, T).
        attention: Mean over heads of the attention weights below the diagonal, shape (T, T).
        settings: Thresholds for the saliency and the attention of an edge.

    Returns:
        query, key, saliency and attention, shape (E,) each, and layer_total.
    """
    mask = (flow >= settings.least * flow.max()) & (flow > 0) | (attention >= settings.least_attention)
    query, key = np.nonzero(mask) if mask.any() else (np.array([1]), np.array([0]))
    return {
        "query": query,
        "key": key,
        "saliency": flow[query, key],
        "attention": attention[query, key],
        "layer_total": float(flow.sum()),
    }
