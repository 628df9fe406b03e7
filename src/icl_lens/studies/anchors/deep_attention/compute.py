"""Attention of the last position to the label words of each class, in each layer.

*Label Words are Anchors*, section 2.3 and appendix E. Let A_{h,l} be the attention matrix of head h in layer l, q the last
position, and p_k the position of the k-th demonstration's label word (its first token). The score of class i in layer l is

    sum over k of class i, and over heads h, of A_{h,l}(q, p_k)

With ``label_anchor: all``, the sum is also over the tokens of the label word of demonstration k.

From these scores, :mod:`icl_lens.statistics.attention_auc` computes how well they predict the model's own output (AUCROC_l) and
the share R_l that the layers up to l contribute (eq. 5).

:mod:`icl_lens.studies.anchors.label_attention` computes the scores.
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
    """Compute the attention score of each prompt, layer and class.

    Args:
        model, prompts, batch_tokens, progress: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstration, or the model's family is not supported.

    Returns:
        One row per prompt, layer and class, in this order: prompt_id, layer (from 0), class (index), attention (a sum over
        heads and demonstrations, and therefore at most the number of heads; 0 for a class without a demonstration).
    """
    return class_attention(model, prompts, batch_tokens, progress)
