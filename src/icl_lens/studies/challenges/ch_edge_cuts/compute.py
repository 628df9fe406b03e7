"""Predictions of a model without some of its attention edges.

Bai et al. (arXiv 2401.11323) hide classes of tokens of the demonstrations from the test example: content words, stop words with
punctuation, and the template. Geva et al. (arXiv 2304.14767) cut the edges from the last position to some tokens in windows of
layers. Bakalova et al. (arXiv 2504.00132) distinguish contextualisation (edges between demonstrations, and from a text to its
label word) from aggregation (edges to the last position). This study cuts each set S of
:mod:`icl_lens.studies.challenges.edge_sets` in all heads h of some layers l, by masking its scores before the softmax:

    A'[l, h, t, j] = 0                                                         for (t, j) in S
    A'[l, h, t, j] = A[l, h, t, j] / sum of A[l, h, t, i] over (t, i) not in S otherwise

The diagonal is never in S. The layers are all layers, the two halves, and windows
(:func:`icl_lens.studies.challenges.ch_edge_cuts.study.spans`). Two controls cut random edges of the same rows instead
(:mod:`icl_lens.studies.challenges.ch_edge_cuts.controls`). Each cut is compared with the uncut run of the same prompt.

Differences from the papers: Bai et al. keep the label words visible in each condition, and have no random controls. Geva et al.
measure the probability of the predicted token and use windows of 9 of 48 layers; here, a window has a third of the layers.
Bakalova et al. replace keys and values by those of another prompt; here, the edges are cut. Here, position 0 is only in the set
``first``, so without a BOS token the first token of the first demonstration remains visible in all other cuts.

If classes are predicted by whole label words (``label_score: whole``), the tokens of label words are appended to the prompt
(:mod:`icl_lens.prompts.label_words`). They predict as the last position does, so the same edges are cut for them. The numbers
of cut edges and tokens and the attention mass are those of the prompt.

The computation. A cut changes only its rows and later positions, from its lowest layer on. Cuts in the row of the last position
run one token, and cuts in the rows of the query run the query. Cuts in the rows of the demonstrations run the demonstrations
once for all prompts that share them, and then each query. Each run starts at the lowest cut layer with the states of the uncut
run.
The conditions of one prompt form batches without padding (:mod:`icl_lens.studies.challenges.ch_edge_cuts.runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.supported import require_supported
from icl_lens.attention.visible import visible_positions
from icl_lens.models.batching import group_by_prefix
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.overlap import jaccard
from icl_lens.studies import inputs
from icl_lens.studies.challenges.ch_edge_cuts.plans import (
    IN_DEMONSTRATIONS,
    IN_QUERY,
    Condition,
    Plan,
    is_only_window,
    labelled_conditions,
    plan,
)
from icl_lens.studies.challenges.ch_edge_cuts.runs import Answer, Runner
from icl_lens.studies.challenges.ch_edge_cuts.study import UNCUT, Settings, spans
from icl_lens.studies.challenges.margin import margin
from icl_lens.studies.challenges.token_classes import TokenClasses, token_classes
from icl_lens.studies.inputs import Given, Inputs

_KEYS = ("rows", "columns", "span", "start", "stop", "variant", "draw")


def prepare(given: Given) -> Inputs:
    """Take the first prompts of each seed."""
    return inputs.of_tables(given, {"prompts": given.table.groupby("seed").head(given.settings.queries)})


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compare the prediction for each prompt under each cut with the uncut run of the same prompt.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstrations, or the model's family is not supported.

    Returns:
        One row per prompt for the uncut run (rows, columns, span and variant are ``none``), and one per prompt and condition:
        prompt_id, rows, columns, span (``all``, ``first half``, ``second half`` or ``window``), start, stop (the cut layers),
        variant (``set``, ``random`` or ``mass``), draw, valid (False if the set has no edge in the prompt or the control does
        not match it; the other values are then those of the uncut run), gold, prediction (class indices), label_agrees,
        word_jaccard_5, margin (of the gold class), effect and own_effect (change of the margin of the gold class, and of that
        of the uncut prediction), edges (number of cut edges, summed over the cut layers), cut_tokens (number of cut columns),
        tokens (number of positions of the prompt), mass (attention of the uncut run along the cut edges, averaged over the
        heads, the cut layers and the rows of the set).
    """
    settings = settings or Settings()
    tables: dict[int, pd.DataFrame] = {}
    for i, uncut, answers, plans in cut_each(model, prompts, batch_tokens, settings):
        tables[i] = _table(prompts[i], model.layers, settings, uncut, answers, plans)
        progress(1)
    return pd.concat(
        [tables[i] if i in tables else _table(prompt, model.layers, settings) for i, prompt in enumerate(prompts)],
        ignore_index=True,
    )


@torch.inference_mode()
def cut_each(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], batch_tokens: int, settings: Settings
) -> Iterator[tuple[int, Answer, dict[Condition, Answer], Plan]]:
    """Run each needed prompt without a cut and under each condition that is valid for it.

    Args:
        model, prompts, batch_tokens, settings: See :func:`compute`.

    Yields:
        The index of the prompt, its uncut answer, its answer under each valid condition, and the edges of all conditions.

    Raises:
        InputError: See :func:`compute`.
    """
    require_supported(model.network)
    classes = [token_classes(prompt) for prompt in prompts]
    found = visible_positions(model.network, max(len(prompt.ids) for prompt in prompts))
    visible = None if found is None else [None if mask is None else mask.numpy() for mask in found]
    runner = Runner(model, batch_tokens, [span.start for span in spans(model.layers)])
    for index in _groups(model, prompts, classes):
        needed = [i for i in index if prompts[i].needed]
        if needed:
            group = [(prompts[i], classes[i]) for i in needed]
            for number, *results in _of_group(runner, group, model.shares_prefixes, visible, settings):
                yield needed[number], *results


def _groups(model: LanguageModel, prompts: Sequence[TokenizedPrompt], classes: Sequence[TokenClasses]) -> Iterator[list[int]]:
    """Yield groups of prompts with the same tokens before the query. A prompt that shares them with no other is a group."""
    for group in group_by_prefix(model, prompts):
        begins = {int(classes[i].query[0]) for i in group.index}
        if len(begins) == 1 and begins.pop() <= len(group.ids):
            yield group.index
        else:
            yield from ([i] for i in group.index)


def _of_group(
    runner: Runner,
    group: Sequence[tuple[TokenizedPrompt, TokenClasses]],
    shares: bool,
    visible: Sequence[np.ndarray | None] | None,
    settings: Settings,
) -> Iterator[tuple[int, Answer, dict[Condition, Answer], Plan]]:
    """Run a group of prompts with the same tokens before the query, see :func:`cut_each`.

    Yields:
        The number of the prompt in the group instead of its index.
    """
    first, layers = group[0], runner.model.layers
    length = int(first[1].query[0])
    ids = first[0].ids[:length]
    before_query = TokenClasses(*(each[:length] for each in first[1]))
    if shares:
        demonstrations, prefix = runner.uncut_demonstrations(ids)
        uncut = [runner.uncut(prompt, length, prefix) for prompt, _ in group]
        attention = demonstrations.attention  # (L, P, P)
    else:
        uncut = [runner.uncut(prompt, 0, None) for prompt, _ in group]
        attention = uncut[0][0].attention[:, :length, :length]  # (L, P, P)
    shared_plan = plan(ids, before_query, IN_DEMONSTRATIONS, attention, visible, settings, windows=True)
    answers: list[dict[Condition, Answer]] = [{} for _ in group]
    if shares:
        for windows in (False, True):
            members = [n for n, (prompt, _) in enumerate(group) if _has_windows(prompt, settings) or not windows]
            chosen = {c: each for c, each in shared_plan.items() if each and is_only_window(c, layers) == windows}
            if members and chosen:
                queries = [(group[n][0], uncut[n][0]) for n in members]
                for number, condition, answer in runner.cut_demonstrations(ids, chosen, demonstrations, queries):
                    answers[members[number]][condition] = answer
    for n, (prompt, classes) in enumerate(group):
        windows, (run, answer) = _has_windows(prompt, settings), uncut[n]
        whole = np.zeros((layers, len(prompt.ids), len(prompt.ids)), dtype=np.float32)  # (L, T, T)
        whole[:, :length, :length] = attention
        whole[:, run.begin :] = run.attention
        plans = plan(prompt.ids, classes, IN_QUERY, whole, visible, settings, windows)
        for kind in IN_QUERY:
            chosen = {c: each for c, each in plans.items() if each and c.rows == kind}
            start = runner.before_last(prompt, run) if shares and kind == "last" else run
            answers[n] |= dict(runner.cut(prompt, chosen, start))
        if not shares:
            chosen = {c: each for c, each in shared_plan.items() if each and (windows or not is_only_window(c, layers))}
            answers[n] |= dict(runner.cut(prompt, chosen, run))
        yield n, answer, answers[n], shared_plan | plans


def _has_windows(prompt: TokenizedPrompt, settings: Settings) -> bool:
    """Return whether all sets are cut in windows of layers for a prompt."""
    return prompt.place < settings.window_queries


def _table(
    prompt: TokenizedPrompt,
    layers: int,
    settings: Settings,
    uncut: Answer | None = None,
    answers: Mapping[Condition, Answer] | None = None,
    plans: Plan | None = None,
) -> pd.DataFrame:
    """Return the rows of a prompt. Without answers, all values are placeholders."""
    uncut = uncut or Answer(np.zeros(len(prompt.label_ids)), np.zeros(1, dtype=np.int64))
    answers, plans = answers or {}, plans or {}
    listed = labelled_conditions(layers, settings, _has_windows(prompt, settings))
    found = [uncut, *(answers.get(condition, uncut) for _, condition in listed)]
    planned = [None, *(plans.get(condition) for _, condition in listed)]
    scores = torch.from_numpy(np.stack([each.scores for each in found]))  # (N, C), on the CPU
    prediction = scores.argmax(-1).numpy()  # (N,)
    gold, own = (margin(scores, torch.full((len(found),), c)).numpy() for c in (prompt.gold, int(prediction[0])))  # (N,) each
    top = np.stack([each.top for each in found])  # (N, 5)
    keys = [(UNCUT, UNCUT, UNCUT, 0, 0, UNCUT, 0)]
    keys += [(c.rows, c.columns, span.name, c.start, c.stop, c.variant, c.draw) for span, c in listed]
    return pd.DataFrame(
        {
            "prompt_id": prompt.prompt_id,
            **dict(zip(_KEYS, map(list, zip(*keys, strict=True)), strict=True)),
            "valid": [True, *(each is not None for each in planned[1:])],
            "gold": prompt.gold,
            "prediction": prediction,
            "label_agrees": prediction == prediction[0],
            "word_jaccard_5": jaccard(top, np.broadcast_to(top[0], top.shape)),
            "margin": gold,
            "effect": gold - gold[0],
            "own_effect": own - own[0],
            "edges": [each.total if each else 0 for each in planned],
            "cut_tokens": [each.columns if each else 0 for each in planned],
            "tokens": len(prompt.ids),
            "mass": [each.mass if each else 0.0 for each in planned],
        }
    )
