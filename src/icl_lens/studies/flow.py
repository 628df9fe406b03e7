"""The information flow of a few prompts in full: I_l(i, j) along every edge worth drawing.

    I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                       (*Label Words are Anchors*, section 2.1, eq. 1)

How I_l is measured: :mod:`icl_lens.information_flow`. The paper's Figure 1 draws two layers of one prompt. An edge leads from
position j to a later position i (the diagonal counts for nothing); edges below a share of the layer's largest are left out,
and every row says how much the whole layer holds, so that what is left out can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from icl_lens import information_flow
from icl_lens.attention import require_supported
from icl_lens.errors import InputError
from icl_lens.flow_plan import Settings
from icl_lens.models import LanguageModel, batches
from icl_lens.positions import TokenizedPrompt


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """The edges of the chosen prompts.

    Args:
        model: Any supported model.
        prompts: They fit the model's context. Which of them are taken is a matter of the settings.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told after each batch how many prompts it held, at the end of all that were not taken.
        settings: See :class:`Settings`.

    Raises:
        InputError: A prompt is asked for that is not there, or has no demonstration; the model's family is not supported, or
            its number format is too narrow.

    Returns:
        One row a prompt, layer and edge, in that order: prompt_id, layer (from 0), query (position i), key (position j < i),
        saliency (I_l(i, j)), layer_total (the sum of I_l over all edges of the layer, those left out too). Edges are sorted
        by query, then key; each layer has at least its largest.
    """
    settings = settings or Settings()
    taken = chosen(prompts, settings)
    information_flow.require_demonstrations(taken)
    require_supported(model.network)
    layers = model.layers
    found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray, float]] = {}  # (place, layer) -> its edges
    for batch in batches(model, taken, batch_tokens):

        def sink(layer: int, flow: Tensor, rows=batch.index) -> None:
            for row, place in enumerate(rows):
                length = len(taken[place].ids)
                edges = flow[row, :length, :length].cpu().double().numpy()  # (T, T)
                found[place, layer] = _kept(np.tril(edges, -1), settings.least)

        multiple = information_flow.measure(model, batch, sink)  # (B,)
        for place, factor in zip(batch.index, multiple, strict=True):
            for layer in range(layers):
                query, key, saliency, total = found[place, layer]
                found[place, layer] = query, key, saliency / factor, total / factor
        progress(len(batch.index))
    finite = [all(np.isfinite(found[place, layer][3]) for layer in range(layers)) for place in range(len(taken))]
    information_flow.require_finite(model, taken, np.array(finite))
    progress(len(prompts) - len(taken))
    edges = [
        pd.DataFrame(
            {
                "prompt_id": prompt.prompt_id,
                "layer": layer,
                **dict(zip(("query", "key", "saliency", "layer_total"), found[place, layer], strict=True)),
            }
        )
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


def _kept(flow: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The edges of one layer that are not left out: query, key and flow of each, shape (E,) each; and the sum over all.

    Args:
        flow: A multiple of I_l below the diagonal, shape (T, T).
        least: See :class:`Settings`.
    """
    largest = flow.max()
    query, key = np.nonzero((flow >= least * largest) & (flow > 0)) if largest > 0 else (np.array([1]), np.array([0]))
    return query, key, flow[query, key], float(flow.sum())
