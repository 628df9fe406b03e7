"""Error diagnosis: class confusion predicted from the keys of the label words.

*Label Words are Anchors*, section 3.3, eq. 11, and the released ``Error_analysis.ipynb``. In one layer, with all heads joined,
let q_i be the query vector of the last position of prompt i, and k_c the key vector of the label word of class c (its first
token). The principal directions v_m of the centred q_i, with standard deviations sigma_m, say how queries differ; along them

    k^_{c,m} = sigma_m v_m' k_c,          m = 1..M
    Confusion_pred(a, b) = ||k^_a - k^_b|| / max over pairs of ||k^_. - k^_.||

so that a small value predicts that a and b are taken for each other. Queries come from prompts whose demonstrations change
(``pooled-1shot``), keys from one demonstration set per seed (``ordered-1shot``); the same from the keys of every set of the
pool, averaged, is reported beside it. Vectors are those before the rotary embedding, as in GPT-2, which has none
(:func:`icl_lens.attention.keys_and_values.queries_and_keys`); a key that heads share is repeated for each of them. The real
confusion comes from the answers (:mod:`icl_lens.studies.anchors.diagnosis.summary`).
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
    """What :func:`compute` takes: the prompts, and those of the further table ``pooled``, that fit the model's context.

    Raises:
        InputError: None fits.
    """
    own, pooled = of_table(given), of_tables(given, {"prompts": given.further["pooled"]})
    return Inputs(own.prompts, own.left_out + pooled.left_out, {"pooled": pooled.prompts})


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    pooled: Sequence[TokenizedPrompt] = (),
) -> pd.DataFrame:
    """The predicted confusion of every seed.

    Args:
        model, batch_tokens, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        prompts: They fit the model's context; all of a seed have the same demonstrations, one a class.
        progress: Told once, when all vectors are read.
        pooled: Prompts of the same seeds, whose query vectors are taken.

    Raises:
        InputError: A seed has fewer than two pooled prompts or a class is not demonstrated exactly once, the keys of all
            classes are alike, the layer is not there, or the model's family is not supported.

    Returns:
        One row a seed, source of the keys, M and pair of classes, in that order: prompt_id (of the seed's first prompt, whose
        demonstrations are the seed's), keys (``first``, of this set; ``pool``, the mean over the distinct sets of the pooled
        prompts), sets (how many), layer (from 0), components (M as asked for), components_there (as many of them as there are),
        class_i < class_j, predicted_confusion (0 to 1; small: predicted to be confused).
    """
    settings = settings or Settings()
    layer = main_layer(model.layers) if settings.layer is None else settings.layer
    if layer >= model.layers:
        raise InputError(
            f"layer {layer} is asked for (studies.diagnosis.layer), but the model has layers 0 to {model.layers - 1}"
        )
    seeds = list(dict.fromkeys(p.seed for p in prompts))
    firsts = [next(p for p in prompts if p.seed == seed) for seed in seeds]
    for prompt in [*firsts, *pooled]:
        if sorted(prompt.demo_labels.tolist()) != list(range(len(prompt.label_ids))):
            raise InputError(f"prompt {prompt.prompt_id}: error diagnosis needs one demonstration of each class")
    for seed in seeds:
        if (there := sum(p.seed == seed for p in pooled)) < 2:
            raise InputError(f"seed {seed} has {there} pooled prompts that fit; principal directions need two at least")
    require_supported(model.network)
    _, keys = vectors(model, firsts, batch_tokens, layer)
    queries, pool_keys = vectors(model, pooled, batch_tokens, layer)
    progress(len(prompts))
    tables = []
    for seed, first, own in zip(seeds, firsts, keys, strict=True):
        places = [i for i, p in enumerate(pooled) if p.seed == seed]
        deviations, directions = principal(queries[places])  # (D,), (D, W)
        # Prompts with the same demonstrations have the same keys: each set counts once.
        sets = {pooled[i].ids[: pooled[i].anchors[-1] + 1].tobytes(): pool_keys[i] for i in places}
        for source, of_source in (("first", [own]), ("pool", list(sets.values()))):
            for asked in counts(settings):
                there = min(asked, len(deviations))
                matrix = np.mean([confusion(k, deviations[:there], directions[:there]) for k in of_source], axis=0)  # (C, C)
                pairs = list(combinations(range(len(matrix)), 2))
                if not np.isfinite(matrix).all():
                    raise InputError(
                        f"seed {seed}: the keys of all label words are alike in layer {layer}; name another "
                        "(studies.diagnosis.layer)"
                    )
                tables.append(
                    pd.DataFrame(
                        {
                            "prompt_id": first.prompt_id,
                            "keys": source,
                            "sets": len(of_source),
                            "layer": layer,
                            "components": asked,
                            "components_there": there,
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
    """Query vectors of the last positions and key vectors of the label words in one layer, all heads joined.

    Returns:
        Queries, shape (N, W) with W = H * d, and of each prompt its keys in the order of the classes, shape (C, W).
    """
    queries: list[np.ndarray] = [np.empty(0)] * len(prompts)
    keys: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for batch in batches(model, prompts, batch_tokens):
        query, key = queries_and_keys(model.network, batch.inputs(), layer)  # (B, H, T, d), (B, H_kv, T, d)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, T, d)
        for row, place in enumerate(batch.index):
            prompt = prompts[place]
            queries[place] = query[row, :, prompt.last].flatten().cpu().double().numpy()  # (W,)
            anchors = prompt.anchors[np.argsort(prompt.demo_labels)]  # (C,)
            keys[place] = key[row][:, anchors].transpose(0, 1).flatten(1).cpu().double().numpy()  # (C, W)
    return np.stack(queries), keys


def principal(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The principal directions of query vectors, widest first.

    Args:
        queries: Shape (N, W).

    Returns:
        Standard deviations, shape (D,), and unit directions, shape (D, W), with D the smaller of N - 1 and W.
    """
    centred = queries - queries.mean(0)  # (N, W)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    there = min(len(queries) - 1, queries.shape[1])
    return singular[:there] / np.sqrt(len(queries) - 1), directions[:there]


def confusion(keys: np.ndarray, deviations: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Confusion_pred of every pair of classes (eq. 11), with 1 on the diagonal as in the paper.

    Args:
        keys: Key vectors of the classes, shape (C, W).
        deviations: sigma_m, shape (M,).
        directions: v_m, shape (M, W).

    Returns:
        Shape (C, C); NaN where no two keys differ.
    """
    scaled = keys @ directions.T * deviations  # (C, M)
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)  # (C, C)
    largest = apart.max()
    # Keys that are one vector differ by the rounding of a product.
    matrix = apart / largest if largest > 1e-9 * np.abs(scaled).max() else np.full_like(apart, np.nan)
    np.fill_diagonal(matrix, 1)
    return matrix
