"""Predictions with isolated label words, which cannot attend to the text before them.

*Label Words are Anchors*, section 2.2 and appendix D. In all heads of the first or the last k layers, D positions p are blocked
from attending to all earlier positions. These positions are the label words or control positions
(:mod:`icl_lens.studies.anchors.isolated_positions`). With attention weights A,

    before the softmax (released code, default)     A(p, j) = 0 for j < p, and A(p, p) = 1
    after the softmax (the paper's text)            A(p, j) = 0 for j < p, and A(p, p) is unchanged; the row is not renormalized

The isolated run is compared with the plain run of the same prompt, made in the same job. The comparison covers the predicted
label and the overlap of the sets of the 5 (paper) and 10 (released notebook) most likely tokens.

:mod:`icl_lens.studies.anchors.isolated_runs` performs the runs.
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
    """Compare the predictions for each prompt under each condition with the plain run of the same prompt.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration or lacks the tokens to isolate, the settings request more layers than the
            model has, or the model's family is not supported.

    Returns:
        One row per prompt and condition, in this order: prompt_id, target, side, layers (k), draw (always 0 except for random),
        order (number of the prompt's random order), prediction (class index), label_agrees, word_jaccard_5, word_jaccard_10.
    """
    return compare(model, prompts, batch_tokens, progress, settings or Settings())
