"""Isolation with the controls that the paper lacks: shuffled labels, an untrained copy, and other tokens than label words.

*Label Words are Anchors*, section 2.2: isolating the label words in the first layers changes the prediction, isolating as many
random tokens does not. If that is because the model reads the demonstrations there, it should not be so for a model that cannot
read (an untrained copy); and it may or may not be so where text and label do not belong together (shuffled labels). The newline
after a label word and the template's token before it stand as close to it, and carry no label.

Isolation is that of :mod:`icl_lens.studies.anchors.isolated_runs`, in Figure 4's number of first and of last layers; each
control's runs are compared with the plain runs of that same control. The controls: :mod:`icl_lens.studies.anchors.controls`.
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
    """Predictions for every control, prompt and condition.

    Args:
        model, prompts, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        shuffled: The same with their labels shuffled.

    Raises:
        InputError: As :func:`icl_lens.studies.anchors.isolated_runs.compare`.

    Returns:
        The rows of :func:`icl_lens.studies.anchors.isolated_runs.compare` for each control in turn; ``control`` is its name.
    """
    settings = settings or Settings()
    chosen = isolation(settings, model.layers)
    report = Runs(progress, len(CONTROLS))
    rows = [
        compare(subject, its, batch_tokens, report, chosen).assign(control=control)
        for control, subject, its in controls.each(model, prompts, shuffled, settings.seed)
    ]
    return pd.concat(rows, ignore_index=True)
