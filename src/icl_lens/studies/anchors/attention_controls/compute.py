"""Deep attention with the controls that the paper lacks: shuffled labels and an untrained copy; and what each answers.

*Label Words are Anchors*, section 2.3: in deep layers, attention to a class's label words tells the prediction. On an untrained
copy there is nothing learnt for it to tell; with shuffled labels (text and label do not belong together) a model that copies
the label word it attends to still has its prediction told, whether or not that is the right answer.

The scores are those of deep attention (:mod:`icl_lens.studies.anchors.label_attention`), the answers those of
:mod:`icl_lens.models.answers`. The controls: :mod:`icl_lens.studies.anchors.controls`.
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
    """Scores and answers for every control and prompt.

    Args:
        model, prompts, batch_tokens, progress: As every study takes them, see :mod:`icl_lens.studies.study`.
        shuffled: The same with their labels shuffled.
        settings: See :class:`~icl_lens.studies.anchors.control_settings.Settings`; what is isolated counts for nothing here.

    Raises:
        InputError: As :func:`icl_lens.studies.anchors.label_attention.class_attention`.

    Returns:
        The rows of :func:`icl_lens.studies.anchors.label_attention.class_attention` for each control in turn, with its name in
        ``control`` and, repeated in each row of a prompt, gold and prediction (class indices) of
        :func:`icl_lens.models.answers.predict`.
    """
    settings = settings or Settings()
    report = Runs(progress, 2 * len(CONTROLS))
    rows = []
    for control, subject, its in controls.each(model, prompts, shuffled, settings.seed):
        scores = class_attention(subject, its, batch_tokens, report)
        answers = predict(subject, its, batch_tokens, report)[["prompt_id", "gold", "prediction"]]
        rows.append(scores.merge(answers, on="prompt_id", validate="many_to_one").assign(control=control))
    return pd.concat(rows, ignore_index=True)
