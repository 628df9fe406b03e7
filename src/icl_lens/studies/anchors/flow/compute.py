"""The information flow of a few prompts in full: I_l(i, j) along every edge worth drawing.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                       (*Label Words are Anchors*, section 2.1, eq. 1)

How I_l is measured: :mod:`icl_lens.studies.anchors.information_flow`. The paper's Figure 1 draws two layers of one prompt. An
edge leads from position j to a later position i (the diagonal counts for nothing). Edges that carry little of the layer's flow
and little attention are left out; every row says how much the whole layer holds, so that what is left out can be told. The same
edge's attention weight stands beside it, and the layer's S_wp, S_pq and S_ww (eq. 2 to 4) in each of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import information_flow
from icl_lens.studies.anchors.flow.study import Settings
from icl_lens.studies.anchors.information_flow import METRICS, EdgeMeans


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """The edges of the chosen prompts.

    Args:
        model, batch_tokens, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        prompts: They fit the model's context. Which of them are taken is a matter of the settings.
        progress: Told after each batch how many prompts it held, at the end of all that were not taken.

    Raises:
        InputError: A prompt is asked for that is not there, or has no demonstration; the model's family is not supported, or
            its number format is too narrow.

    Returns:
        One row a prompt, layer and edge, in that order: prompt_id, layer (from 0), query (position i), key (position j < i),
        saliency (I_l(i, j)), attention (mean over heads of A_{h,l}(i, j)), layer_total (the sum of I_l over all edges of the
        layer, those left out too), s_wp, s_pq, s_ww (of the layer). Edges are sorted by query, then key; each layer has at
        least one.
    """
    settings = settings or Settings()
    taken = chosen(prompts, settings)
    information_flow.require_demonstrations(taken)
    require_supported(model.network)
    layers = model.layers
    found: dict[tuple[int, int], dict[str, Any]] = {}  # (place, layer) -> its edges and what its rows say of the layer
    for batch in batches(model, taken, batch_tokens, kept="graph"):
        edge_means = EdgeMeans(batch, [taken[place] for place in batch.index])

        def sink(layer: int, flow: Tensor, attention: Tensor, rows=batch.index, edge_means=edge_means) -> None:
            means = edge_means.of(flow).numpy()  # (3, B)
            for row, place in enumerate(rows):
                length = len(taken[place].ids)
                below = [np.tril(matrix[row, :length, :length].cpu().double().numpy(), -1) for matrix in (flow, attention)]
                found[place, layer] = _kept(*below, settings) | dict(zip(METRICS, means[:, row].tolist(), strict=True))

        multiple = information_flow.measure(model, batch, sink, with_weights=True)  # (B,)
        for place, factor in zip(batch.index, multiple, strict=True):
            for layer in range(layers):
                for name in ("saliency", "layer_total", *METRICS):
                    found[place, layer][name] = found[place, layer][name] / factor
        progress(len(batch.index))
    finite = [all(np.isfinite(found[place, layer]["layer_total"]) for layer in range(layers)) for place in range(len(taken))]
    information_flow.require_finite(model, taken, np.array(finite))
    progress(len(prompts) - len(taken))
    edges = [
        pd.DataFrame({"prompt_id": prompt.prompt_id, "layer": layer, **found[place, layer]})
        for place, prompt in enumerate(taken)
        for layer in range(layers)
    ]
    return pd.concat(edges, ignore_index=True)


def chosen(prompts: Sequence[TokenizedPrompt], settings: Settings) -> list[TokenizedPrompt]:
    """The prompts whose flow is kept, in their order, and behind them those that are kept besides (also).

    Raises:
        InputError: A prompt is asked for that is not there.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    absent = next((number for number in (*(settings.prompt_ids or ()), *settings.also) if number not in by_id), None)
    if absent is not None:
        raise InputError(
            f"prompt {absent} is asked for (items.*.prompt, or studies.flow.prompt_ids or also), but there is none of that "
            f"prompt_id, or it is longer than the model's context; the prompts are {min(by_id)} to {max(by_id)}"
        )
    if settings.prompt_ids is not None:
        taken = sorted(set(settings.prompt_ids))
    else:
        of_seed: dict[int, list[int]] = {}
        for prompt in prompts:
            of_seed.setdefault(prompt.seed, []).append(prompt.prompt_id)
        taken = [number for group in list(of_seed.values())[: settings.seeds] for number in group[: settings.prompts]]
    return [by_id[number] for number in dict.fromkeys([*taken, *sorted(settings.also)])]


def _kept(flow: np.ndarray, attention: np.ndarray, settings: Settings) -> dict[str, Any]:
    """The edges of one layer that are not left out: query, key, saliency and attention of each, shape (E,) each; layer_total.

    Args:
        flow: A multiple of I_l below the diagonal, shape (T, T).
        attention: Mean over heads of the attention weights below the diagonal, shape (T, T).
    """
    keep = (flow >= settings.least * flow.max()) & (flow > 0) | (attention >= settings.least_attention)
    query, key = np.nonzero(keep) if keep.any() else (np.array([1]), np.array([0]))
    return {
        "query": query,
        "key": key,
        "saliency": flow[query, key],
        "attention": attention[query, key],
        "layer_total": float(flow.sum()),
    }
