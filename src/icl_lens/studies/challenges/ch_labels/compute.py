"""Predictions, information flow and isolation with other labels in the demonstrations, and without demonstrations.

Min et al. (arXiv 2202.12837) find that random labels in the demonstrations hardly reduce the accuracy. Others find that models
do not adopt inverted labels (arXiv 2511.21038), that they repeat the label if all demonstrations have the same one, and that
they predict meaningless strings if these are the labels (arXiv 2605.08295). This study runs the same queries after the same
demonstration texts in the same order, with the labels of :mod:`icl_lens.studies.challenges.ch_labels.versions`.

With y the gold class of the query, f(y) the class whose label word the demonstrations give class y, and y_0 the prediction
without demonstrations, :mod:`icl_lens.studies.challenges.ch_labels.summary` reports how often the prediction is y (truth), f(y)
(prompt) and y_0 (prior). These definitions are ours. If the demonstrations of class y have different labels, f(y) is the most
frequent one, and undefined for a tie.

*Calibration* (Zhao et al., arXiv 2102.09690, and their code). With p_c the probability of the first token of label word c in
the vocabulary, or with ``label_score: whole`` that of the whole label word, and q the mean of p over the content-free queries
"N/A", "" and "[MASK]" after the same demonstrations, normalised over the classes, the calibrated prediction is argmax_c p_c /
q_c.

*Mechanism.* S_wp, S_pq and S_ww (:mod:`icl_lens.models.information_flow`) for the loss of y and for that of f(y), and the
prediction with isolated label words (:mod:`icl_lens.models.isolated_runs`) in the first and in the last k layers. The control
isolates random positions before the last anchor, as many as there are anchors. Prompts with the same demonstrations have the
same random positions.

Differences from the papers: Min et al. use 16 demonstrations; the figures here use one per class. Their label distribution is
that of the training split; here it is that of the gold labels of the queries, because a prompts table has no other. They assign
random words at random; here, the new words replace the label words one to one, as in their variant with gold labels. They
compare Macro-F1. The code of the other papers was not available.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import information_flow
from icl_lens.models.batching import Batch, batches, fitting, group_by_prefix, needs_any, shared_batches
from icl_lens.models.information_flow import METRICS, EdgeMeans
from icl_lens.models.isolated_runs import States, runs
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores, predictive_logits
from icl_lens.progress import Runs
from icl_lens.prompts.demonstrations import demonstration_texts, replace_demonstrations
from icl_lens.prompts.label_words import LabelWords
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies.challenges.ch_labels import versions as labels
from icl_lens.studies.challenges.ch_labels.study import (
    ISOLATED,
    NEW_WORDS,
    UNDEFINED,
    Condition,
    Settings,
    conditions,
    isolated_layers,
)
from icl_lens.studies.inputs import Given, Inputs

# Number of most likely tokens that word loyalty compares.
_WORDS = 5

# Maximum number of prompts whose layer inputs are stored at a time.
_PART = 64


@dataclass(frozen=True)
class Version:
    """The prompts with the labels of one condition.

    Attributes:
        condition: The condition.
        prompts: N prompts, in the order of the study's prompts.
        content_free: M prompts with content-free queries.
        sets: The F content-free prompts that belong to each prompt, shape (N, F).
    """

    condition: Condition
    prompts: list[TokenizedPrompt]
    content_free: list[TokenizedPrompt]
    sets: np.ndarray


def prepare(given: Given) -> Inputs:
    """Take the first prompts of each seed, and make the versions with other labels.

    Raises:
        InputError: A prompt has no demonstrations or other label words than the first one, there are too few new label words
            for this tokenizer, or no prompt fits the model's context in all versions.
    """
    settings: Settings = given.settings or Settings()
    table = given.table.groupby("seed", sort=False).head(settings.queries)
    labels.require_usable(given.table)
    original = list(table["label_words"].iloc[0])
    if len(original) < 2:
        raise InputError(f"the prompts have only the label word {original[0]!r}; use a task with at least two classes")
    (first,) = given.tokenize(table.head(1))
    golds = np.bincount(given.table["gold"], minlength=len(original))  # (C,)
    measure = _measure(given, table.iloc[0].to_dict())
    listed = conditions(settings, len(original))
    words = {
        name: labels.choose_words(name, original, getattr(settings, name), measure)
        for name in NEW_WORDS
        if name in {each.name for each in listed}
    }
    lengths = {
        name: [tokens.count if (tokens := measure(word)) else 0 for word in each]
        for name, each in {"gold": original, **words}.items()
    }
    found, too_long = [], set()
    for condition in listed:
        changed = labels.version(table, condition, settings, words.get(condition.name, original), golds / golds.sum())
        prompts = given.tokenize(changed)
        scored = _with_original_words(prompts, first)
        free, sets = labels.content_free(changed, settings.content_free)
        content_free = given.tokenize(free)
        size = len(settings.content_free)
        sets = sets[:, None] * size + np.arange(size)  # (N, F)
        fits = {p.prompt_id for p in fitting(given.model, scored)}
        lengths_of_free = [len(p.ids) + p.appended for p in _with_original_words(content_free, first)]
        longest = np.array(lengths_of_free)[sets].max(1)  # (N,)
        if given.model.context is not None:
            fits -= {p.prompt_id for p, length in zip(prompts, longest, strict=True) if length > given.model.context}
        too_long |= {p.prompt_id for p in prompts} - fits
        found.append(Version(condition, prompts, content_free, sets))
    kept = [i for i, prompt_id in enumerate(table["prompt_id"]) if prompt_id not in too_long]
    if not kept:
        raise InputError(f"no prompt fits the context of {given.model.name} in all conditions; use shorter demonstrations")
    found = [replace(each, prompts=[each.prompts[i] for i in kept], sets=each.sets[kept]) for each in found]
    gold = next(each for each in found if each.condition.name == "gold")
    facts = {"new_label_words": words, "label_word_tokens": lengths}
    return Inputs(gold.prompts, len(table) - len(kept), {"versions": found}, facts)


def _measure(given: Given, row: dict) -> labels.Measure:
    """Return the function that tokenizes a label word in a prompt, see :data:`labels.Measure`."""
    texts = demonstration_texts(row)
    same = [0] * len(texts)

    def measure(word: str) -> labels.Tokens | None:
        renamed = {**row, "label_words": [word], "gold": 0, "demo_labels": same}
        try:
            (prompt,) = given.tokenize(pd.DataFrame([{**renamed, **replace_demonstrations(renamed, texts, same)}]))
        except InputError:
            return None
        start, stop = prompt.label_tokens[0]
        scored = prompt.label_words.tokens[0] if prompt.label_words else (int(prompt.label_ids[0]),)
        return labels.Tokens(int(stop - start), scored)

    return measure


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    versions: Sequence[Version],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Run each prompt with the labels of each condition.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        versions: The prompts with the labels of each condition, from :func:`prepare`.

    Raises:
        InputError: The settings request more layers than the model has, a prompt has too few positions for the random control,
            the model's family is not supported, or the range of its number format is too small.

    Returns:
        One row per condition and prompt, in that order: prompt_id, condition, draw (for ``one``, the class), labels (class of
        each demonstration's label word), gold_share (share of the demonstrations with their own label; 0 without
        demonstrations), gold (y), shown (f(y); -1 if undefined), zero_shot (y_0), prediction, calibrated (class indices),
        log_probs (log-probability of the first token of each label word in the vocabulary, or of the whole label word, in
        nats), content_free (q), shown_mass and own_mass (sum of these probabilities over the label words in the
        demonstrations, and over the original label words; 0 without demonstrations for the former), s_wp, s_pq and s_ww (of
        each layer, for the loss of y), shown_s_wp, shown_s_pq and shown_s_ww (for the loss of f(y)), isolated_agrees and
        isolated_overlap (whether the prediction with isolated positions is the same, and the Jaccard index of the five most
        likely tokens, in the order of :data:`icl_lens.studies.challenges.ch_labels.study.ISOLATED`). The lists of the flow and
        of isolation are empty for prompts that are not among the first ``flow_queries`` of their seed, and without
        demonstrations.
    """
    settings = settings or Settings()
    k = isolated_layers(settings, model.layers)
    if k > model.layers:
        raise InputError(
            f"studies.ch_labels.layers is {k}, but the model has only {model.layers} layers; choose a smaller number"
        )
    selected = [i for i, prompt in enumerate(prompts) if prompt.place < settings.flow_queries]
    if selected:
        require_supported(model.network)
    # All versions have the shard of the study's prompts, which is not yet known in prepare().
    needed = np.array([prompt.needed for prompt in prompts])  # (N,)
    versions = [_with_needed(each, needed) for each in versions]
    report = Runs(progress, len(versions) + 1)
    rows = _predictions(model, prompts, versions, batch_tokens, report)
    flows = _flows(model, versions, rows, selected, batch_tokens)
    isolated = _isolated(model, versions, selected, k, batch_tokens, settings)
    report(len(prompts))
    empty: list[float] = []
    for number in range(len(versions)):
        for i in range(len(prompts)):
            row = rows[number * len(prompts) + i]
            of_gold = flows.get((number, i, "gold"))
            of_shown = of_gold if row["shown"] == row["gold"] else flows.get((number, i, "shown"))
            for prefix, values in (("", of_gold), ("shown_", of_shown)):
                row |= {f"{prefix}{name}": empty if values is None else values[m] for m, name in enumerate(METRICS)}
            agrees, overlap = isolated.get((number, i), (empty, empty))
            row |= {"isolated_agrees": agrees, "isolated_overlap": overlap}
    return pd.DataFrame(rows)


def _with_needed(version: Version, needed: np.ndarray) -> Version:
    """Return a version in which the same prompts are needed as in the study; ``needed`` has shape (N,)."""
    free = set(version.sets[needed].ravel().tolist())
    return replace(
        version,
        prompts=[replace(p, needed=bool(mark)) for p, mark in zip(version.prompts, needed, strict=True)],
        content_free=[replace(p, needed=n in free) for n, p in enumerate(version.content_free)],
    )


@torch.inference_mode()
def _predictions(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    versions: Sequence[Version],
    batch_tokens: int,
    report: Callable[[int], object],
) -> list[dict[str, Any]]:
    """Return the columns of the predictions, one row per version and prompt."""
    # The prompts of a version and its content-free prompts run together, because they share the demonstrations.
    listed = [p for each in versions for p in _with_original_words((*each.prompts, *each.content_free), prompts[0])]
    classes = len(prompts[0].label_ids)
    scores = np.zeros((len(listed), 2 * classes))  # (P, 2C)
    counted = np.concatenate([[1] * len(each.prompts) + [0] * len(each.content_free) for each in versions])  # (P,)
    for batch in shared_batches(model, listed, batch_tokens, score=True):
        scores[batch.index] = _log_probs(batch, predictive_logits(model, batch)).cpu().double().numpy()
        report(int(counted[batch.prompts].sum()))
    log_probs, of_originals = scores[:, :classes], scores[:, classes:]  # (P, C) each
    rows, start = [], 0
    zero_shot = np.empty(0)
    for each in versions:
        count = len(each.prompts)
        found, of_free = log_probs[start : start + count], log_probs[start + count : start + count + len(each.content_free)]
        content_free = np.exp(of_free)[each.sets].mean(1)  # (N, C)
        content_free /= content_free.sum(1, keepdims=True)
        with np.errstate(divide="ignore"):  # a probability can underflow
            calibrated = (found - np.log(content_free)).argmax(1)  # (N,)
        prediction = found.argmax(1)  # (N,)
        if each.condition.name == "none":
            zero_shot = prediction
        own_mass = np.exp(of_originals[start : start + count]).sum(1)  # (N,)
        for i, (prompt, original) in enumerate(zip(each.prompts, prompts, strict=True)):
            shown_labels = prompt.demo_labels.tolist()
            true = original.demo_labels.tolist() if shown_labels else []
            rows.append(
                {
                    "prompt_id": original.prompt_id,
                    "condition": each.condition.name,
                    "draw": each.condition.draw,
                    "labels": shown_labels,
                    "gold_share": float(np.mean(np.equal(true, shown_labels))) if shown_labels else 0.0,
                    "gold": original.gold,
                    "shown": labels.shown_class(true, shown_labels, original.gold),
                    "zero_shot": int(zero_shot[i]),
                    "prediction": int(prediction[i]),
                    "calibrated": int(calibrated[i]),
                    "log_probs": found[i],
                    "content_free": content_free[i],
                    "shown_mass": float(np.exp(found[i, sorted(set(shown_labels))]).sum()),
                    "own_mass": float(own_mass[i]),
                }
            )
        start += count + len(each.content_free)
    return rows


def _with_original_words(prompts: Sequence[TokenizedPrompt], original: TokenizedPrompt) -> list[TokenizedPrompt]:
    """Return prompts with 2C label words: their own, and those of another prompt.

    Args:
        prompts: Prompts with the same C label words.
        original: A prompt with the original label words. These have the same tokens after each of the prompts.
    """
    own, others = prompts[0].label_words, original.label_words
    words = LabelWords((*own.tokens, *others.tokens)) if own and others else None
    return [replace(p, label_words=words, label_ids=np.concatenate([p.label_ids, original.label_ids])) for p in prompts]


def _log_probs(batch: Batch, logits: Tensor) -> Tensor:
    """Return the log-probability of the scored tokens of each label word, over the whole vocabulary, shape (B, 2C).

    Args:
        batch: A batch for scores, of prompts with 2C label words.
        logits: Logits at the predicting positions, shape (E, V).
    """
    scores = class_scores(batch, logits)  # (B, 2C)
    return scores if batch.whole_words else scores - logits.logsumexp(-1, keepdim=True)


def _flows(
    model: LanguageModel,
    versions: Sequence[Version],
    rows: Sequence[dict[str, Any]],
    selected: Sequence[int],
    batch_tokens: int,
) -> dict[tuple[int, int, str], np.ndarray]:
    """Measure the information flow of the selected prompts.

    Returns:
        (number of the version, prompt, ``gold`` or ``shown``) -> S_wp, S_pq and S_ww of each layer, shape (3, L). The loss is
        that of the gold class, or that of f(y) if it is defined and another class.
    """
    keys, listed = [], []
    for number, each in enumerate(versions):
        for i in selected if each.condition.name != "none" else ():
            row = rows[number * len(each.prompts) + i]
            losses = {"gold": row["gold"]}
            if row["shown"] not in (UNDEFINED, row["gold"]):
                losses["shown"] = row["shown"]
            keys += [(number, i, name) for name in losses]
            listed += [replace(each.prompts[i], gold=loss) for loss in losses.values()]
    means = np.full((len(METRICS), len(listed), model.layers), np.nan)  # (3, E, L)
    for batch in batches(model, listed, batch_tokens, kept="graph", score=True) if listed else ():
        edges = EdgeMeans(batch, listed)

        def sink(layer: int, flow: Tensor, mean: None, edges=edges) -> None:
            means[:, edges.prompts, layer] = edges.compute(flow)[0].numpy()

        multiple = information_flow.measure(model, batch, sink)[batch.first_rows]  # (N',)
        means[:, edges.prompts] /= multiple[:, None]
    unneeded = np.array([not p.needed for p in listed], dtype=bool)  # (E,)
    if listed:
        information_flow.require_finite(model, listed, unneeded | np.isfinite(means).all((0, 2)))
    means[:, unneeded] = 0
    return {key: means[:, e] for e, key in enumerate(keys)}


@torch.inference_mode()
def _isolated(
    model: LanguageModel, versions: Sequence[Version], selected: Sequence[int], k: int, batch_tokens: int, settings: Settings
) -> dict[tuple[int, int], tuple[list[int], list[float]]]:
    """Run the selected prompts with isolated positions.

    Returns:
        (number of the version, prompt) -> whether the prediction is that of the plain run, and the overlap of the most likely
        tokens, for each condition of :data:`ISOLATED`.
    """
    keys = [(number, i) for number, each in enumerate(versions) if each.condition.name != "none" for i in selected]
    listed = [versions[number].prompts[i] for number, i in keys]
    agrees = np.zeros((len(ISOLATED), len(listed)), dtype=np.int64)  # (4, E)
    overlap = np.zeros((len(ISOLATED), len(listed)))  # (4, E)
    bos = model.tokenizer.bos_token_id
    positions = {
        "label": [p.anchors for p in listed],
        "random": [_random_positions(p, settings, bos) for p in listed],
    }
    groups = [
        replace(group, index=group.index[first : first + _PART])
        for group in (group_by_prefix(model, listed) if listed else ())
        for first in range(0, len(group.index), _PART)
    ]
    for group in groups:
        if not needs_any(listed, group.index):
            continue
        # The inputs of the first of the last k layers are those of the plain run.
        plain = States({model.layers - k} if model.can_resume else ())
        predictions, top = {}, {}
        for batch, logits in runs(model, listed, group, None, (), "before_softmax", batch_tokens, recorded=plain):
            predictions |= dict(zip(batch.index, class_scores(batch, logits).argmax(-1).tolist(), strict=True))
            top |= dict(zip(batch.index, _top(batch, logits), strict=True))
        for number, name in enumerate(ISOLATED):
            target, side = name.split()
            layers = range(k) if side == "first" else range(model.layers - k, model.layers)
            start = (plain, layers.start) if layers.start in plain.layers else None
            for batch, logits in runs(model, listed, group, positions[target], layers, "before_softmax", batch_tokens, start):
                found = class_scores(batch, logits).argmax(-1).cpu().numpy()  # (B,)
                agrees[number, batch.index] = found == [predictions[i] for i in batch.index]
                overlap[number, batch.index] = jaccard(_top(batch, logits), np.stack([top[i] for i in batch.index]))
    return {key: (agrees[:, e].tolist(), overlap[:, e].tolist()) for e, key in enumerate(keys)}


def _random_positions(prompt: TokenizedPrompt, settings: Settings, bos: int | None) -> np.ndarray:
    """Draw as many positions before the last anchor as there are anchors, ascending, shape (A,).

    The draw depends on the tokens up to the last anchor only. Anchors and a BOS token at position 0 are not drawn.

    Raises:
        InputError: There are too few positions.
    """
    before = prompt.ids[: prompt.anchors[-1] + 1]
    eligible = np.setdiff1d(np.arange(int(prompt.ids[0] == bos), len(before)), prompt.anchors)
    if len(eligible) < len(prompt.anchors):
        raise InputError(
            f"prompt {prompt.prompt_id} has only {len(eligible)} tokens before its last label word, but the random control "
            f"isolates {len(prompt.anchors)}; use longer demonstrations or set studies.ch_labels.flow_queries to 0"
        )
    digest = int.from_bytes(hashlib.sha256(before.tobytes()).digest()[:8])
    generator = np.random.default_rng([settings.seed, prompt.seed, digest])
    return np.sort(generator.choice(eligible, len(prompt.anchors), replace=False))


def _top(batch: Batch, logits: Tensor) -> np.ndarray:
    """Return the most likely tokens after each row's prompt, shape (B, 5)."""
    last = logits[: len(batch.index)]  # (B, V)
    return last.topk(min(_WORDS, logits.shape[-1]), dim=-1).indices.cpu().numpy()
