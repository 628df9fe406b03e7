"""Contribution of each demonstration to the gold margin: Shapley values, and measures that are compared with them.

v(S) is the margin of the gold class (:mod:`icl_lens.studies.challenges.margin`) for the prompt with the demonstrations S in
their order, and v(empty) that of the query alone. :mod:`icl_lens.studies.challenges.ch_demonstrations.shapley` computes the
Shapley values phi_i: from all subsets for at most ``exact`` demonstrations, and from sampled orders for more. Their sum is
v(all) - v(empty). *Leave-one-out* is v(all) - v(all without i).

A demonstration that is missing from S is

    deleted      not in the prompt, so the positions of later tokens change
    masked       in the prompt, but no later demonstration and no token of the query attends to it. Without a BOS token, the
                 first demonstration contains position 0, an attention sink in many models, so it is then masked as well
    unlabelled   in the prompt, but each token of its label word has the mean embedding of the first tokens of the label words.
                 With whole label words (``label_score: whole``), the n-th token has the mean embedding of the n-th tokens of
                 the label words with at least n tokens. The number of tokens of the label word does not change.

The scores s_c of the classes are those of :mod:`icl_lens.models.logits`, from first tokens or whole label words.

v(empty) differs from 0 because a model prefers some label words without any demonstration, and the sum of all phi_i contains
this preference. ``calibrated`` is therefore phi of the margin of calibrated scores (contextual calibration, Zhao et al., arXiv
2102.09690): with p_c the mean probability of label word c for the queries "N/A", "" and "[MASK]" after the demonstrations S,
normalised over the label words, the score is s_c - log p_c.

**Controls** are computed for the first prompts of each seed. One demonstration is drawn as the target.

    flipped      the target has the label of the next class
    nonsense     each word of the target's text is replaced by a nonsense word
    duplicate    the target occurs twice in a row, as two players
    reversed     all demonstrations in reverse order

The other measures are defined in :mod:`icl_lens.studies.challenges.ch_demonstrations.measures`; ``similarity`` is the cosine of
TF-IDF vectors of the texts of demonstration and query, with document frequencies in the texts of all prompts.

Related work uses other games: DemoShapley (arXiv 2410.07523) averages over orders of the demonstrations in the prompt, and its
value is the accuracy on other queries. Here, the order is fixed and the value is the gold margin of one query.

Prompts with the same demonstrations share a tree of subsets
(:mod:`icl_lens.studies.challenges.ch_demonstrations.trees`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import group_by_prefix, needs_any
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.demonstrations import keep_shots
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.sets import per_class
from icl_lens.statistics.text_similarity import tf_idf_cosines
from icl_lens.studies import inputs
from icl_lens.studies.challenges.ch_demonstrations import shapley, trees
from icl_lens.studies.challenges.ch_demonstrations.measures import measure
from icl_lens.studies.challenges.ch_demonstrations.shapley import Coalition
from icl_lens.studies.challenges.ch_demonstrations.study import (
    CALIBRATED,
    KINDS,
    LEAVE_ONE_OUT,
    MEASURES,
    PLAIN,
    PROMPT,
    SHAPLEY,
    Settings,
)
from icl_lens.studies.challenges.ch_demonstrations.versions import Game, Versions, build
from icl_lens.studies.challenges.margin import margin
from icl_lens.studies.inputs import Given, Inputs


def prepare(given: Given) -> Inputs:
    """Take the first prompts of each seed with at most ``demonstrations`` demonstrations, and tokenize their versions.

    Raises:
        InputError: A prompt has no demonstrations, no prompt fits the model's context in all versions, or a version cannot be
            tokenized.
    """
    settings: Settings = given.settings
    table = given.table.groupby("seed").head(settings.queries)
    rows = [_fewer(row, settings.demonstrations) for row in table.to_dict("records")]
    empty = next((row["prompt_id"] for row in rows if not len(row["demo_labels"])), None)
    if empty is not None:
        raise _no_demonstrations(empty)
    table = pd.DataFrame(rows)
    found = inputs.of_tables(given, {"prompts": table})
    kept = table[table["prompt_id"].isin([prompt.prompt_id for prompt in found.prompts])]
    versions = build(kept, given.tokenize, settings)
    context = given.model.context
    fits = [
        i
        for i, (prompt, each) in enumerate(zip(found.prompts, versions, strict=True))
        if context is None or each.longest + prompt.appended <= context
    ]
    if not fits:
        raise InputError(
            f"no prompt with changed or repeated demonstrations fits the context of {given.model.name} ({context} tokens); set "
            "studies.ch_demonstrations.control_queries to 0"
        )
    left_out = found.left_out + len(versions) - len(fits)
    return Inputs([found.prompts[i] for i in fits], left_out, {"versions": [versions[i] for i in fits]})


def _fewer(row: dict, demonstrations: int) -> dict:
    """Return a row with the first demonstrations of each class, as many as fit."""
    labels = list(row["demo_labels"])
    if len(labels) <= demonstrations:
        return row
    return {**row, **keep_shots(row, per_class(demonstrations, len(set(labels))))}


def _no_demonstrations(prompt_id: int) -> InputError:
    return InputError(
        f"prompt {prompt_id} has no demonstrations, but this study measures their contribution; use prompts with demonstrations"
    )


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    *,
    versions: Sequence[Versions],
) -> pd.DataFrame:
    """Compute the Shapley values of each prompt's demonstrations, and the measures that are compared with them.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        versions: The versions of each prompt with other demonstrations, from :func:`prepare`.

    Raises:
        InputError: A prompt has no demonstrations, or the model's family is not supported.

    Returns:
        One row per prompt, control (``none`` for the demonstrations of the prompt), kind of missing demonstrations, measure and
        demonstration: prompt_id, control, kind (``prompt`` for measures of the prompt with all demonstrations), measure
        (``shapley``, ``leave_one_out``, ``calibrated``, or one of
        :data:`~icl_lens.studies.challenges.ch_demonstrations.study.MEASURES`), demonstration (index, and K for the second copy
        of a duplicate), label (its class), changed (whether it is the target), gold, prediction (with all demonstrations; class
        indices), value, error (standard error of the value; 0 if it is exact), margin (v(all) of this control and kind) and
        empty_margin (v(empty)).
    """
    settings = settings or Settings()
    require_supported(model.network)
    empty = next((p for p in prompts if not len(p.demo_labels)), None)
    if empty is not None:
        raise _no_demonstrations(empty.prompt_id)
    similarity = _similarities(prompts)
    tables: dict[int, pd.DataFrame] = {}
    for group in group_by_prefix(model, prompts):
        if not needs_any(prompts, group.index):
            continue
        measured = measure(model, prompts, group.index, batch_tokens)
        for index in _same_demonstrations(prompts, versions, group.index):
            for i, results in zip(index, _results(model, prompts, versions, index, batch_tokens), strict=True):
                of_prompt = {**measured.get(i, {}), "similarity": similarity[i], **_baselines(prompts[i], settings)}
                tables[i] = _table(prompts[i], versions[i], results, of_prompt)
                progress(1)
    return pd.concat(
        [tables[i] if i in tables else _table(p, versions[i], None, {}) for i, p in enumerate(prompts)], ignore_index=True
    )


def _same_demonstrations(
    prompts: Sequence[TokenizedPrompt], versions: Sequence[Versions], index: Sequence[int]
) -> list[list[int]]:
    """Return groups of prompts with the same tokens before the query in all versions."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for i in index:
        begin = places(prompts[i], drop_first=False).query
        groups.setdefault((id(versions[i].content_free[0]), prompts[i].ids[:begin].tobytes()), []).append(i)
    return list(groups.values())


@dataclass(frozen=True)
class _Results:
    """Results of one prompt.

    Attributes:
        scores: Version -> scores of the classes, shape (C,).
        calibrated: Version -> calibrated scores, shape (C,).
        kinds: Kind of missing demonstrations, other than ``deleted`` -> coalition -> scores of the classes, shape (C,).
    """

    scores: Mapping[tuple[int, ...], np.ndarray]
    calibrated: Mapping[tuple[int, ...], np.ndarray]
    kinds: Mapping[str, Mapping[Coalition, np.ndarray]]


@torch.inference_mode()
def _results(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    versions: Sequence[Versions],
    index: Sequence[int],
    batch_tokens: int,
) -> list[_Results]:
    """Run all versions of some prompts with the same demonstrations."""
    members, first = [prompts[i] for i in index], versions[index[0]]
    own = trees.of_versions(model, [versions[i].own for i in index], members[0], batch_tokens)
    content_free = trees.of_versions(model, first.content_free, members[0], batch_tokens, log_probabilities=True)
    prior: dict[tuple[int, ...], np.ndarray] = {}
    for pieces in content_free[0]:
        mean = np.logaddexp.reduce([scores[pieces] for scores in content_free])  # (C,), up to a constant
        prior[pieces] = mean - np.logaddexp.reduce(mean)
    spans = places(members[0], drop_first=False)
    coalitions = first.games[PLAIN].plan.coalitions
    kinds = {
        kind: trees.of_states(model, members, spans, coalitions, kind, batch_tokens) for kind in KINDS if kind != "deleted"
    }
    return [
        _Results(
            scores,
            {pieces: scores[pieces] - of_version for pieces, of_version in prior.items()},
            {kind: of_kind[number] for kind, of_kind in kinds.items()},
        )
        for number, scores in enumerate(own)
    ]


def _similarities(prompts: Sequence[TokenizedPrompt]) -> list[np.ndarray]:
    """Return the text similarity of each prompt's query and its D demonstrations, shape (D,) each."""

    def text(prompt: TokenizedPrompt, span: np.ndarray) -> str:
        return prompt.text[span[0] : span[1]]

    return tf_idf_cosines([(text(p, p.query_span), [text(p, span) for span in p.text_spans]) for p in prompts], [])


def _baselines(prompt: TokenizedPrompt, settings: Settings) -> dict[str, np.ndarray]:
    count = len(prompt.demo_labels)
    key = [settings.seed, prompt.seed, zlib.crc32(prompt.text.encode())]
    return {"place": np.arange(count, dtype=float), "random": np.random.default_rng(key).random(count)}


def _table(
    prompt: TokenizedPrompt, versions: Versions, results: _Results | None, measured: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return the rows of a prompt. Without results, all values are placeholders."""
    plain = versions.games[PLAIN]
    parts = []
    for control, game in versions.games.items():
        scores = _of_game(game, results.scores if results else None, len(prompt.label_ids))
        parts.append(_rows(prompt, versions, control, "deleted", game, scores, SHAPLEY))
        if control == PLAIN:
            parts.append(_rows(prompt, versions, control, "deleted", game, scores, LEAVE_ONE_OUT))
    calibrated = _of_game(plain, results.calibrated if results else None, len(prompt.label_ids))
    parts.append(_rows(prompt, versions, PLAIN, "deleted", plain, calibrated, CALIBRATED))
    for kind in KINDS[1:]:
        of_kind = results.kinds[kind] if results else dict.fromkeys(plain.plan.coalitions, np.zeros(len(prompt.label_ids)))
        for name in (SHAPLEY, LEAVE_ONE_OUT):
            parts.append(_rows(prompt, versions, PLAIN, kind, plain, of_kind, name))
    scores = _of_game(plain, results.scores if results else None, len(prompt.label_ids))
    for name in MEASURES:
        row = _rows(prompt, versions, PLAIN, PROMPT, plain, scores, LEAVE_ONE_OUT)
        parts.append({**row, "measure": name, "value": measured.get(name, np.zeros(len(plain.labels)))})
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


def _of_game(game: Game, scores: Mapping[tuple[int, ...], np.ndarray] | None, classes: int) -> dict[Coalition, np.ndarray]:
    """Return the scores of each coalition of a game; zeros without scores."""
    return {s: np.zeros(classes) if scores is None else scores[game.version(s)] for s in game.plan.coalitions}


def _rows(
    prompt: TokenizedPrompt,
    versions: Versions,
    control: str,
    kind: str,
    game: Game,
    scores: Mapping[Coalition, np.ndarray],
    name: str,
) -> dict[str, Any]:
    """Return the rows of one measure that comes from a game."""
    stacked = torch.from_numpy(np.stack([scores[s] for s in game.plan.coalitions]))  # (S, C), on the CPU
    margins = margin(stacked, torch.full((len(stacked),), prompt.gold)).tolist()
    values = dict(zip(game.plan.coalitions, margins, strict=True))
    players = game.plan.players
    everything = tuple(range(players))
    if name == LEAVE_ONE_OUT:
        value, error = shapley.leave_one_out(game.plan, values), np.zeros(players)
    else:
        value, error = shapley.shapley(game.plan, values)
    return {
        "prompt_id": prompt.prompt_id,
        "control": control,
        "kind": kind,
        "measure": name,
        "demonstration": everything,
        "label": list(game.labels),
        "changed": [i == versions.target or i == len(prompt.demo_labels) for i in everything],
        "gold": prompt.gold,
        "prediction": int(scores[everything].argmax()),
        "value": value,
        "error": error,
        "margin": values[everything],
        "empty_margin": values[()],
    }
