"""Isolation: does the prediction survive when label words are cut off from the text before them?

*Label Words are Anchors*, section 2.2 and appendix D. In the first or the last k layers, every head, the edges from a position
p to all earlier ones are blocked, for each of D positions p: the label words, or others in their place
(:mod:`icl_lens.studies.anchors.isolated_positions`). With A the attention weights,

    before the softmax (released code, default)     A(p, j) = 0 for j < p, and A(p, p) = 1
    after the softmax (the paper's sentence)        A(p, j) = 0 for j < p, and A(p, p) as it was; the row is not renormalised

The run so changed is compared with the plain run of the same prompt, made in the same job: is the predicted label the same, and
how far do the sets of the 5 (paper) and 10 (released notebook) likeliest tokens overlap?

How the runs are made: :mod:`icl_lens.studies.anchors.isolated_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolated_runs import compare
from icl_lens.studies.anchors.isolating import Settings


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predictions for every prompt under every condition, against the prompt's plain run.

    Args:
        model, prompts, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration or lacks what is to be isolated, more layers are asked for than there are, or
            the model's family is not supported.

    Returns:
        One row per prompt and condition, in that order: prompt_id, target, side, layers (k), draw (0 but for random),
        prediction (class index), label_agrees, word_jaccard_5, word_jaccard_10.
    """
    return compare(model, prompts, batch_tokens, progress, settings or Settings())
