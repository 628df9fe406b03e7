"""Linear probes of the keys and values around label words, for each head and position.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5. If attention is the kernel regression of eq. 6, a
demonstration's key should encode its text in the form that the kernel uses, and its value should encode the label. For each
head and each position l_i + p near the label word of demonstration i (p = 0 is the word's first token), a ridge regression onto
one-hot targets (penalty .01) predicts the class with the largest output:

    argmax_o P(o | x_i), the most likely next token after the text x_i alone, from the key
    y_i, the label, from the value

(:mod:`icl_lens.studies.kernel_regression.single_texts` computes P(o | x_i).) With ``label_anchor: last``, p = 0 is the word's
last token. With ``all``, p = 0 is the mean over its tokens, and p < 0 and p > 0 count from its first and from its last token.

The paper does not say whether it uses keys before or after the rotary embedding, or on which data it fits the probes. This
study reads both kinds of keys: before the embedding (``key``, independent of the token's position) and after it
(``turned_key``). The means over the fitting data are subtracted from features and targets, in float64. The penalty is relative
to sums over demonstrations, not to means. The **folds** divide the prompts. The fitting data excludes each demonstration with a
text that is also tested. Heads that share a key and value count as one: here, a head is a key-value head, numbered as in the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.keys_and_values import record_keys_and_values
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.placement import logits_to_keep
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.inputs import Given, Inputs, of_tables
from icl_lens.studies.kernel_regression.label_probes.study import PROBES, Feature, Settings
from icl_lens.studies.kernel_regression.single_texts import distinct_texts, most_probable_tokens


def prepare(given: Given) -> Inputs:
    """Return the first prompts of each seed, without those that do not fit the model's context.

    Raises:
        InputError: No prompt fits.
    """
    return of_tables(given, {"prompts": given.table.groupby("seed", sort=False).head(given.settings.queries)})


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the accuracy of each probe.

    Args:
        model, prompts, batch_tokens, progress, settings: Standard arguments of a study, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, there are fewer prompts than folds, a fold leaves no demonstration to fit on
            or to test, or the model's family is not supported.

    Returns:
        One row per feature and target (:data:`~icl_lens.studies.kernel_regression.label_probes.study.PROBES`), offset, layer,
        head (both from 0) and fold: prompt_id (of the fold's first prompt), fitted (number of demonstrations), classes (number
        of classes that the probe distinguishes), accuracy, majority (the accuracy of always predicting the most frequent class
        of the fitting data). For the fold's prompts that have tested demonstrations, the row also has ``members`` (prompt_id),
        ``asked`` and ``right`` (the numbers of tested and of correctly predicted demonstrations).
    """
    settings = settings or Settings()
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but probes require label words; use prompts with "
            "demonstrations"
        )
    if len(prompts) < settings.folds:
        raise InputError(
            f"{len(prompts)} prompts cannot be divided into {settings.folds} folds; increase queries, seeds or "
            "studies.label_probes.queries, or reduce studies.label_probes.folds"
        )
    require_supported(model.network)
    texts = distinct_texts(model, prompts)
    # The index of each demonstration's prompt and text.
    prompt_indices = np.repeat(np.arange(len(prompts)), [len(p.demo_labels) for p in prompts])  # (n,)
    text_indices = np.concatenate(texts.demos)  # (n,)
    targets = {
        "token": keep_most_frequent(most_probable_tokens(model, texts.texts, batch_tokens)[text_indices], settings.tokens),
        "label": np.concatenate([p.demo_labels for p in prompts]),
    }
    recorded, available = features(model, prompts, batch_tokens, settings.offsets, progress)
    folds = np.random.default_rng(settings.seed).permutation(len(prompts)) % settings.folds  # (N,)
    rows = []
    for feature, target in PROBES:
        for index, offset in enumerate(settings.offsets):
            mask = available[index] & (targets[target] >= 0)  # (n,)
            for fold in range(settings.folds):
                tested = mask & (folds[prompt_indices] == fold)
                fitted = mask & (folds[prompt_indices] != fold) & ~np.isin(text_indices, text_indices[tested])
                if not tested.any() or not fitted.any():
                    raise InputError(
                        f"fold {fold} at offset {offset} has {tested.sum()} demonstrations to test and {fitted.sum()} "
                        "demonstrations with other texts to fit on, but at least 1 of each is required; increase "
                        "queries or studies.label_probes.queries, add texts, or change studies.label_probes.offsets"
                    )
                classes, coded = np.unique(targets[target][fitted], return_inverse=True)
                tested_prompts = prompt_indices[tested]
                # The demonstrations are in the order of their prompts.
                members, first, count = np.unique(tested_prompts, return_index=True, return_counts=True)
                common = {
                    "prompt_id": prompts[members[0]].prompt_id,
                    "feature": feature,
                    "target": target,
                    "offset": offset,
                    "fold": fold,
                    "fitted": int(fitted.sum()),
                    "classes": len(classes),
                    "majority": float((targets[target][tested] == classes[np.bincount(coded).argmax()]).mean()),
                    "members": [prompts[member].prompt_id for member in members],
                    "asked": count.tolist(),
                }
                for layer, head_features in enumerate(recorded[feature]):
                    x = head_features[:, index].double()  # (H_kv, n, d)
                    answers = classes[ridge(x[:, fitted], coded, x[:, tested], settings.ridge)]  # (H_kv, m)
                    correct = answers == targets[target][tested]
                    correct_counts = np.add.reduceat(correct.astype(np.int64), first, axis=1)  # (H_kv, members)
                    for head, (head_correct, member_counts) in enumerate(zip(correct, correct_counts, strict=True)):
                        values = {"accuracy": float(head_correct.mean()), "right": member_counts.tolist()}
                        rows.append({**common, "layer": layer, "head": head, **values})
    return pd.DataFrame(rows)


def keep_most_frequent(tokens: np.ndarray, count: int) -> np.ndarray:
    """Replace all but the ``count`` most frequent tokens with -1; among equally frequent tokens, the smaller ids remain."""
    values, counts = np.unique(tokens, return_counts=True)
    kept = values[np.argsort(-counts, kind="stable")[:count]]
    return np.where(np.isin(tokens, kept), tokens, -1)


def features(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    offsets: Sequence[int],
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[dict[Feature, list[Tensor]], np.ndarray]:
    """Read the keys and values near the label words.

    Args:
        model, prompts, batch_tokens, progress: See :func:`compute`.
        offsets: O offsets.

    Returns:
        For each feature and layer, a tensor of shape (H_kv, O, n, d) with the demonstrations of all prompts in order, on the
        CPU in at least float32; and a mask of the positions that exist, shape (O, n). The features are zero for positions that
        do not exist.
    """
    starts = np.concatenate([[0], np.cumsum([len(p.demo_labels) for p in prompts])])  # (N + 1,)
    available = np.zeros((len(offsets), starts[-1]), dtype=bool)  # (O, n)
    recorded: dict[Feature, list[Tensor]] = {"key": [], "turned_key": [], "value": []}
    for batch in batches(model, prompts, batch_tokens, kept="states"):
        with record_keys_and_values(model.network, unrotated=True) as cache:
            model.network(**batch.inputs(), logits_to_keep=logits_to_keep(model.network))
        for layer in range(model.layers):
            layer_features = {"key": cache[layer].unrotated_key, "turned_key": cache[layer].key, "value": cache[layer].value}
            for name, vectors in layer_features.items():  # (B, H_kv, T, d)
                if len(recorded[name]) == layer:
                    shape = (vectors.shape[1], *available.shape, vectors.shape[3])
                    recorded[name].append(torch.zeros(shape, dtype=at_least_float32(vectors[:0]).dtype))
                for row, index in enumerate(batch.index):
                    positions = _positions(prompts[index], offsets)  # (O, D)
                    exists = (positions >= 0) & (positions <= prompts[index].last)
                    columns = slice(starts[index], starts[index + 1])
                    available[:, columns] = exists
                    selected = at_least_float32(vectors[row][:, np.where(exists, positions, 0)]).cpu()  # (H_kv, O, D, d)
                    recorded[name][layer][:, :, columns] = selected * torch.from_numpy(exists)[..., None]
                    if 0 in offsets and len(prompts[index].anchors) > positions.shape[1]:
                        means = _means(prompts[index], at_least_float32(vectors[row]).cpu())  # (H_kv, D, d)
                        recorded[name][layer][:, list(offsets).index(0), columns] = means
        progress(len(batch.index))
    return recorded, available


def _positions(prompt: TokenizedPrompt, offsets: Sequence[int]) -> np.ndarray:
    """Return the position at each offset from the label word of each demonstration, shape (O, D). It may not exist.

    If a label word has several anchors, negative offsets count from its first one, and positive offsets from its last one.
    """
    demonstrations = np.arange(len(prompt.demo_labels))  # (D,)
    first, last = (np.searchsorted(prompt.anchor_demonstrations, demonstrations, side) for side in ("left", "right"))  # (D,)
    return np.stack([prompt.anchors[first if offset <= 0 else last - 1] + offset for offset in offsets])


def _means(prompt: TokenizedPrompt, vectors: Tensor) -> Tensor:
    """Return the mean of the vectors, shape (H_kv, T, d), over the anchors of each demonstration, shape (H_kv, D, d)."""
    of_anchor = prompt.anchor_demonstrations  # (A,)
    return torch.stack([vectors[:, prompt.anchors[of_anchor == k]].mean(1) for k in range(len(prompt.demo_labels))], 1)


def ridge(fitted: Tensor, classes: np.ndarray, tested: Tensor, penalty: float) -> np.ndarray:
    """Predict classes by ridge regression onto one-hot targets, for several heads at once.

    Args:
        fitted: Features to fit on, shape (H, n, d).
        classes: Their classes, from 0, shape (n,).
        tested: Features to predict from, shape (H, m, d).
        penalty: Penalty on the sum of squared weights, added to the sum of squared errors. The intercept is not penalized.

    Returns:
        Predicted classes, shape (H, m).
    """
    targets = torch.nn.functional.one_hot(torch.from_numpy(classes)).to(fitted)  # (n, C)
    mean = fitted.mean(1, keepdim=True)  # (H, 1, d)
    x, y = fitted - mean, targets - targets.mean(0)  # (H, n, d), (n, C)
    gram = x.transpose(1, 2) @ x  # (H, d, d)
    gram.diagonal(dim1=1, dim2=2).add_(penalty)
    weights = torch.linalg.solve(gram, x.transpose(1, 2) @ y)  # (H, d, C)
    return ((tested - mean) @ weights + targets.mean(0)).argmax(-1).numpy()
