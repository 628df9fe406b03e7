"""Deep attention: how much the last position attends to each class's label words, layer by layer.

*Label Words are Anchors*, section 2.3 and appendix E. With A_{h,l} the attention matrix of head h in layer l, q the last
position and p_k the position of the k-th demonstration's label word (its first token), the score of class i in layer l is

    sum over k of class i, and over heads h, of A_{h,l}(q, p_k)

How well these scores tell the model's own prediction (AUCROC_l) and the share R_l that layers up to l contribute (eq. 5) are
computed from these rows by :mod:`icl_lens.statistics.attention_auc`.

How the scores are measured: :mod:`icl_lens.studies.anchors.label_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.label_attention import class_attention


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """The score of every prompt, layer and class.

    Args:
        model, prompts, batch_tokens, progress: As every study takes them, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, or the model's family is not supported.

    Returns:
        One row per prompt, layer and class, in that order: prompt_id, layer (from 0), class (index), attention (a sum over
        heads and demonstrations, so at most the number of heads; 0 for a class without a demonstration).
    """
    return class_attention(model, prompts, batch_tokens, progress)
