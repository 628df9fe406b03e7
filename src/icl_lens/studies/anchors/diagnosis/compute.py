"""Error diagnosis: class confusion predicted from the keys of the label words.

*Label Words are Anchors*, section 3.3, eq. 11, and the released ``Error_analysis.ipynb``. In one layer, with all heads
concatenated, let q_i be the query vector of the last position of prompt i, and k_c the key vector of the label word of class c
(its first token; with ``label_anchor: all``, the mean over its tokens). Let v_m be the principal directions of the centered
q_i, and sigma_m their standard deviations. The predicted confusion is

    k^_{c,m} = sigma_m v_m' k_c,          m = 1..M
    Confusion_pred(a, b) = ||k^_a - k^_b|| / max over pairs of ||k^_. - k^_.||

A small value predicts that the model confuses a and b. The queries come from prompts with varying demonstrations
(``pooled-1shot``), and the keys from one demonstration set per seed (``ordered-1shot``). The table also contains the mean
prediction over the keys of all demonstration sets in the pool. The vectors are those before the rotary embedding, for
consistency with GPT-2, which has none (:func:`icl_lens.attention.keys_and_values.queries_and_keys`). A key that several heads
share is repeated for each head. The real confusion is computed from the predictions
(:mod:`icl_lens.studies.anchors.diagnosis.summary`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.keys_and_values import queries_and_keys
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.diagnosis.study import Settings, counts, main_layer
from icl_lens.studies.inputs import Given, Inputs, of_table, of_tables


def prepare(given: Given) -> Inputs:
    """Return the prompts and the pooled prompts (further table ``pooled``) that fit the model's context.

    Raises:
        InputError: No prompt or no pooled prompt fits.
    """
    main, pooled = of_table(given), of_tables(given, {"prompts": given.further["pooled"]})
    return Inputs(main.prompts, main.left_out + pooled.left_out, {"pooled": pooled.prompts})


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    pooled: Sequence[TokenizedPrompt] = (),
) -> pd.DataFrame:
    """Compute the predicted confusion of each seed.

    Args:
        model, batch_tokens, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        prompts: Prompts that fit the model's context. All prompts of a seed have the same demonstrations, one per class.
        progress: Called once, after all vectors are computed.
        pooled: Prompts of the same seeds that provide the query vectors.

    Raises:
        InputError: A seed has fewer than two pooled prompts, a class does not have exactly one demonstration, the keys of all
            classes are equal, the layer does not exist, or the model's family is not supported.

    Returns:
        One row per seed, source of the keys, M and pair of classes, in this order: prompt_id (of the first prompt of the seed,
        which has the seed's demonstrations), keys (``first``: the keys of this demonstration set; ``pool``: the mean over the
        distinct sets of the pooled prompts), sets (number of demonstration sets), layer (from 0), components (the requested M),
        components_there (the M that is used, limited by the number of directions), class_i < class_j, predicted_confusion
        (0 to 1; a small value predicts confusion).
    """
    settings = settings or Settings()
    layer = main_layer(model.layers) if settings.layer is None else settings.layer
    if layer >= model.layers:
        raise InputError(
            f"studies.diagnosis.layer is {layer}, but the model has only layers 0 to {model.layers - 1}; choose one of these"
        )
    seeds = list(dict.fromkeys(p.seed for p in prompts))
    firsts = [next(p for p in prompts if p.seed == seed) for seed in seeds]
    for prompt in [*firsts, *pooled]:
        if sorted(prompt.demo_labels.tolist()) != list(range(len(prompt.label_ids))):
            raise InputError(
                f"prompt {prompt.prompt_id} does not have exactly one demonstration of each class, which error diagnosis "
                "requires; use a set with one demonstration per class"
            )
    for seed in seeds:
        if (available := sum(p.seed == seed for p in pooled)) < 2:
            raise InputError(
                f"seed {seed} has {available} pooled prompts that fit the model's context, but at least 2 are required; "
                "increase queries, add test texts, or use a model with a longer context"
            )
    require_supported(model.network)
    _, keys = vectors(model, firsts, batch_tokens, layer)
    queries, pool_keys = vectors(model, pooled, batch_tokens, layer)
    progress(len(prompts))
    tables = []
    for seed, first, prompt_keys in zip(seeds, firsts, keys, strict=True):
        indices = [i for i, p in enumerate(pooled) if p.seed == seed]
        deviations, directions = principal(queries[indices])  # (D,), (D, W)
        # Prompts with the same demonstrations have the same keys, so each set counts once.
        sets = {pooled[i].ids[: pooled[i].anchors[-1] + 1].tobytes(): pool_keys[i] for i in indices}
        for source, key_sets in (("first", [prompt_keys]), ("pool", list(sets.values()))):
            for requested in counts(settings):
                available = min(requested, len(deviations))
                matrix = np.mean(
                    [confusion(k, deviations[:available], directions[:available]) for k in key_sets], axis=0
                )  # (C, C)
                pairs = list(combinations(range(len(matrix)), 2))
                if not np.isfinite(matrix).all():
                    raise InputError(
                        f"seed {seed}: the keys of all label words are equal in layer {layer}; choose another layer "
                        "(studies.diagnosis.layer)"
                    )
                tables.append(
                    pd.DataFrame(
                        {
                            "prompt_id": first.prompt_id,
                            "keys": source,
                            "sets": len(key_sets),
                            "layer": layer,
                            "components": requested,
                            "components_there": available,
                            "class_i": [a for a, _ in pairs],
                            "class_j": [b for _, b in pairs],
                            "predicted_confusion": [matrix[pair] for pair in pairs],
                        }
                    )
                )
    return pd.concat(tables, ignore_index=True)


def vectors(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    layer: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compute the query vectors of the last positions and the key vectors of the label words in one layer.

    Returns:
        The queries, shape (N, W) with W = H * d, all heads concatenated, and the keys of each prompt in the order of the
        classes, shape (C, W).
    """
    queries: list[np.ndarray] = [np.empty(0)] * len(prompts)
    keys: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for batch in batches(model, prompts, batch_tokens):
        query, key = queries_and_keys(model.network, batch.inputs(), layer)  # (B, H, T, d), (B, H_kv, T, d)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, T, d)
        for row, i in enumerate(batch.index):
            prompt = prompts[i]
            queries[i] = query[row, :, prompt.last].flatten().cpu().double().numpy()  # (W,)
            anchor_keys = key[row][:, prompt.anchors].transpose(0, 1).flatten(1).cpu().double().numpy()  # (A, W)
            classes = prompt.anchor_classes  # (A,)
            keys[i] = np.stack([anchor_keys[classes == c].mean(0) for c in np.sort(prompt.demo_labels)])  # (C, W)
    return np.stack(queries), keys


def principal(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the principal directions of query vectors, in descending order of standard deviation.

    Args:
        queries: Query vectors, shape (N, W).

    Returns:
        Standard deviations, shape (D,), and unit directions, shape (D, W), with D = min(N - 1, W).
    """
    centred = queries - queries.mean(0)  # (N, W)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    n_directions = min(len(queries) - 1, queries.shape[1])
    return singular[:n_directions] / np.sqrt(len(queries) - 1), directions[:n_directions]


def confusion(keys: np.ndarray, deviations: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Compute Confusion_pred for each pair of classes (eq. 11), with 1 on the diagonal as in the paper.

    Args:
        keys: Key vectors of the classes, shape (C, W).
        deviations: sigma_m, shape (M,).
        directions: v_m, shape (M, W).

    Returns:
        Predicted confusion, shape (C, C); NaN outside the diagonal if all keys are equal.
    """
    scaled = keys @ directions.T * deviations  # (C, M)
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)  # (C, C)
    largest = distances.max()
    # Equal keys can differ by the rounding error of the product.
    matrix = distances / largest if largest > 1e-9 * np.abs(scaled).max() else np.full_like(distances, np.nan)
    np.fill_diagonal(matrix, 1)
    return matrix
