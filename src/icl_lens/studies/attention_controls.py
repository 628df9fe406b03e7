"""Deep attention with the controls that the paper lacks: shuffled labels and an untrained copy; and what each answers.

*Label Words are Anchors*, section 2.3: in deep layers, attention to a class's label words tells the prediction. On an untrained
copy there is nothing learnt for it to tell; with shuffled labels (text and label do not belong together) a model that copies
the label word it attends to still has its prediction told, whether or not that is the right answer.

The study is :mod:`icl_lens.studies.deep_attention`, the answers are those of :mod:`icl_lens.studies.icl`. The controls:
:mod:`icl_lens.controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens import controls
from icl_lens.controls import facts, prepare
from icl_lens.controls_plan import CONTROLS, Settings
from icl_lens.models import LanguageModel
from icl_lens.positions import TokenizedPrompt
from icl_lens.progress import Runs
from icl_lens.studies import deep_attention, icl

__all__ = ["Settings", "compute", "facts", "prepare"]


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
        model: Any supported model.
        prompts: They fit the model's context.
        shuffled: The same with their labels shuffled.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told how many more prompts are done, all controls counted.
        settings: See :class:`~icl_lens.controls_plan.Settings`; what is isolated counts for nothing here.

    Raises:
        InputError: As :func:`icl_lens.studies.deep_attention.compute`.

    Returns:
        The rows of :func:`icl_lens.studies.deep_attention.compute` for each control in turn, with its name in ``control`` and,
        repeated in each row of a prompt, gold and prediction (class indices) of :func:`icl_lens.studies.icl.compute`.
    """
    settings = settings or Settings()
    report = Runs(progress, 2 * len(CONTROLS))
    rows = []
    for control, subject, its in controls.each(model, prompts, shuffled, settings.seed):
        scores = deep_attention.compute(subject, its, batch_tokens, report)
        answers = icl.compute(subject, its, batch_tokens, report)[["prompt_id", "gold", "prediction"]]
        rows.append(scores.merge(answers, on="prompt_id", validate="many_to_one").assign(control=control))
    return pd.concat(rows, ignore_index=True)
