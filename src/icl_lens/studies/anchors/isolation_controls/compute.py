"""Isolation with controls that the paper does not have: shuffled labels, an untrained copy, and tokens next to label words.

*Label Words are Anchors*, section 2.2: isolating the label words in the first layers changes the prediction, but isolating the
same number of random tokens does not. If the reason is that the model processes the demonstrations in these layers, the effect
should be absent in an untrained copy. It may or may not be present if texts and labels do not match (shuffled labels). The
newline after a label word and the template token before it are adjacent to the label word but contain no label.

The runs come from :mod:`icl_lens.studies.anchors.isolated_runs`, with Figure 4's number of first or last layers. The runs of
each control are compared with the plain runs of the same control. The controls are in
:mod:`icl_lens.studies.anchors.controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.language_model import LanguageModel
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import controls
from icl_lens.studies.anchors.control_settings import CONTROLS, Settings, isolation
from icl_lens.studies.anchors.controls import prepare
from icl_lens.studies.anchors.isolated_runs import compare

__all__ = ["compute", "prepare"]


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    shuffled: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the predictions for each control, prompt and condition.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        shuffled: The same prompts with shuffled labels.

    Raises:
        InputError: See :func:`icl_lens.studies.anchors.isolated_runs.compare`.

    Returns:
        The rows of :func:`icl_lens.studies.anchors.isolated_runs.compare` for one control after the other. The column
        ``control`` contains the name of the control.
    """
    settings = settings or Settings()
    chosen = isolation(settings, model.layers)
    report = Runs(progress, len(CONTROLS))
    rows = [
        compare(control_model, control_prompts, batch_tokens, report, chosen).assign(control=control)
        for control, control_model, control_prompts in controls.iterate(model, prompts, shuffled, settings.seed)
    ]
    return pd.concat(rows, ignore_index=True)
