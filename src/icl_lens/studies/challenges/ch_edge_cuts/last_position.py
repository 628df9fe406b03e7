"""Cuts of the edges of the last position in a single prompt, with the probabilities of the label words.

The sets of edges, their controls and the effect are those of :mod:`icl_lens.studies.challenges.ch_edge_cuts.compute`, without
the windows of layers. If the model can share the keys and values of the earlier tokens, only the last position is run under
each cut, and the attention of the uncut run is recorded only for this position.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from icl_lens.attention.supported import require_supported
from icl_lens.attention.visible import visible_positions
from icl_lens.models import prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_edge_cuts.plans import labelled_conditions, plan
from icl_lens.studies.challenges.ch_edge_cuts.runs import Runner
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings, spans
from icl_lens.studies.challenges.edge_sets import COLUMNS, EdgeSet
from icl_lens.studies.challenges.edges import find_edges
from icl_lens.studies.challenges.margin import margin
from icl_lens.studies.challenges.token_classes import token_classes

ROW = "last"
"""Name of the rows of all sets of this module."""


def columns_of(prompt: TokenizedPrompt) -> dict[str, np.ndarray]:
    """Return the positions in each set of columns of the last position, ascending.

    Args:
        prompt: A prompt with demonstrations.

    Raises:
        InputError: The prompt has no demonstrations.

    Returns:
        Name of the columns (:data:`icl_lens.studies.challenges.edge_sets.COLUMNS`) -> positions; empty if the prompt has none.
    """
    classes = token_classes(prompt)
    return {columns: np.flatnonzero(find_edges(classes, EdgeSet(ROW, columns))[prompt.last]) for columns in COLUMNS}


@torch.inference_mode()
def cut_last_position(
    model: LanguageModel, prompt: TokenizedPrompt, batch_tokens: int = 4096, settings: Settings | None = None
) -> pd.DataFrame:
    """Predict a prompt without the attention of the last position to each class of tokens, and under the random controls.

    Args:
        model: Any supported model.
        prompt: A prompt that fits the model's context.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        settings: The draws and the tolerance of the controls, and their seed; the other settings are not used.

    Raises:
        InputError: The prompt has no demonstrations, or the model's family is not supported.

    Returns:
        One row per condition in all layers and in each half: columns, span, start, stop, variant, draw, valid, mass (see
        :func:`icl_lens.studies.challenges.ch_edge_cuts.compute.compute`), prediction (class index), class_log_probs (C floats,
        log-softmax over the label words), and effect (change of the margin of the gold class, in logits). In a row that is not
        valid, prediction and class_log_probs are those of the uncut run, and effect and mass are 0.
    """
    settings = settings or Settings()
    require_supported(model.network)
    classes, layers, length = token_classes(prompt), model.layers, len(prompt.ids)
    runner = Runner(model, batch_tokens, [span.start for span in spans(layers) if span.name != "window"])
    begin = prompt.last if model.shares_prefixes else 0
    prefix = prefixes.read(model.network, prompt.ids[:begin]) if begin else None
    uncut, answer = runner.uncut(prompt, begin, prefix)
    # The plan reads only the row of the last position.
    attention = np.broadcast_to(uncut.attention[:, -1:], (layers, length, length))  # (L, T, T)
    found = visible_positions(model.network, length)
    visible = None if found is None else [None if mask is None else mask.numpy() for mask in found]
    plans = plan(prompt.ids, classes, (ROW,), attention, visible, settings, windows=False)
    listed = [
        (span, condition)
        for span, condition in labelled_conditions(layers, settings, windows=False)
        if condition.rows == ROW and span.name != "window"
    ]
    planned = {condition: plans[condition] for _, condition in listed}
    answers = dict(runner.cut(prompt, {condition: each for condition, each in planned.items() if each}, uncut))
    scores = torch.from_numpy(
        np.stack([answers.get(condition, answer).scores for _, condition in listed])
    )  # (N, C), on the CPU
    log_probs = scores.log_softmax(-1)  # (N, C)
    before = torch.from_numpy(answer.scores)  # (C,)
    gold = torch.tensor(prompt.gold)
    effects = margin(scores, gold.expand(len(listed))) - margin(before, gold)  # (N,)
    return pd.DataFrame(
        [
            {
                "columns": condition.columns,
                "span": span.name,
                "start": condition.start,
                "stop": condition.stop,
                "variant": condition.variant,
                "draw": condition.draw,
                "valid": planned[condition] is not None,
                "mass": planned[condition].mass if planned[condition] else 0.0,
                "prediction": int(scores[number].argmax()),
                "class_log_probs": log_probs[number].tolist(),
                "effect": float(effects[number]),
            }
            for number, (span, condition) in enumerate(listed)
        ]
    )
