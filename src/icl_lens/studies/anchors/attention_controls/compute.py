"""Deep attention and predictions with two controls that the paper does not have: shuffled labels and an untrained copy.

*Label Words are Anchors*, section 2.3: in deep layers, attention to the label words of a class predicts the model's output. An
untrained copy has learned nothing that its attention could predict. With shuffled labels, the texts and labels do not match. If
the model copies the label word that it attends to, attention still predicts its output, whether or not the output is correct.

The scores come from :mod:`icl_lens.studies.anchors.label_attention`, as in deep attention, and the predictions from
:mod:`icl_lens.models.answers`. The controls are in :mod:`icl_lens.studies.anchors.controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.answers import predict
from icl_lens.models.language_model import LanguageModel
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import controls
from icl_lens.studies.anchors.control_settings import CONTROLS, Settings
from icl_lens.studies.anchors.controls import prepare
from icl_lens.studies.anchors.label_attention import class_attention

__all__ = ["compute", "prepare"]


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    shuffled: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute attention scores and predictions for each control and prompt.

    Args:
        model, prompts, batch_tokens, progress: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        shuffled: The same prompts with shuffled labels.
        settings: See :class:`~icl_lens.studies.anchors.control_settings.Settings`. The settings of isolation have no effect
            here.

    Raises:
        InputError: See :func:`icl_lens.studies.anchors.label_attention.class_attention`.

    Returns:
        The rows of :func:`icl_lens.studies.anchors.label_attention.class_attention` for one control after the other. The column
        ``control`` contains the name of the control. The columns gold and prediction (class indices) come from
        :func:`icl_lens.models.answers.predict` and repeat in each row of a prompt.
    """
    settings = settings or Settings()
    report = Runs(progress, 2 * len(CONTROLS))
    rows = []
    for control, control_model, control_prompts in controls.iterate(model, prompts, shuffled, settings.seed):
        scores = class_attention(control_model, control_prompts, batch_tokens, report)
        answers = predict(control_model, control_prompts, batch_tokens, report)[["prompt_id", "gold", "prediction"]]
        rows.append(scores.merge(answers, on="prompt_id", validate="many_to_one").assign(control=control))
    return pd.concat(rows, ignore_index=True)
