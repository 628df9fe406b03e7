"""Isolation with the controls that the paper lacks: shuffled labels, an untrained copy, and other tokens than label words.

*Label Words are Anchors*, section 2.2: isolating the label words in the first layers changes the prediction, isolating as many
random tokens does not. If that is because the model reads the demonstrations there, it should not be so for a model that
cannot read (an untrained copy); and it may or may not be so where text and label do not belong together (shuffled labels).
The newline after a label word and the template's token before it stand as close to it, and carry no label.

The study is :mod:`icl_lens.studies.isolation`, in Figure 4's number of first and of last layers; each control's runs are
compared with the plain runs of that same control. The controls: :mod:`icl_lens.controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens import controls
from icl_lens.controls import facts, prepare
from icl_lens.controls_plan import CONTROLS, Settings
from icl_lens.controls_plan import isolation as isolation_settings
from icl_lens.models import LanguageModel
from icl_lens.positions import TokenizedPrompt
from icl_lens.progress import Runs
from icl_lens.studies import isolation

__all__ = ["Settings", "compute", "facts", "prepare"]


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    shuffled: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predictions for every control, prompt and condition.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        shuffled: The same with their labels shuffled.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told how many more prompts are done, all controls counted.
        settings: See :class:`~icl_lens.controls_plan.Settings`.

    Raises:
        InputError: As :func:`icl_lens.studies.isolation.compute`.

    Returns:
        The rows of :func:`icl_lens.studies.isolation.compute` for each control in turn, with its name in ``control``.
    """
    settings = settings or Settings()
    chosen = isolation_settings(settings, model.layers)
    report = Runs(progress, len(CONTROLS))
    rows = [
        isolation.compute(subject, its, batch_tokens, report, chosen).assign(control=control)
        for control, subject, its in controls.each(model, prompts, shuffled, settings.seed)
    ]
    return pd.concat(rows, ignore_index=True)
