"""Prediction similarity: how similar the next-token distributions of a query's text and of each demonstration's text are.

*In-context learning as kernel regression* (Han et al., TMLR 2025), eq. 9. Let P(. | x) be the distribution of the next token
over the whole vocabulary after the text x alone (:mod:`icl_lens.studies.kernel_regression.single_texts`). The similarity

    s(x_1, x_2) = P(. | x_1)' P(. | x_2)

is the probability that the same token follows both texts. It represents the kernel of eq. 6, so attention to a demonstration
should increase with it (:mod:`icl_lens.studies.kernel_regression.prediction_similarity.summary`). This module does not read
attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.kernel_regression.single_texts import distinct_texts, distributions, split_by_memory


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
) -> pd.DataFrame:
    """Compute the similarity of each prompt's query to each of its demonstrations.

    Args:
        prompts, batch_tokens, progress: Standard arguments of a study, see :mod:`icl_lens.studies.study`.
        model: Any model.

    Raises:
        InputError: A prompt has no demonstration, or no token ends inside a text.

    Returns:
        One row per prompt, in their order: prompt_id, similarity (D floats, from 0 to 1), query_token and demo_tokens (ids of
        the most likely next token after the query's text and after each demonstration's text).
    """
    zero_shot = next((p for p in prompts if not len(p.text_spans)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but prediction similarity requires texts to compare with; use "
            "prompts with demonstrations"
        )
    rows = []
    for indices in split_by_memory(model, prompts):
        part = [prompts[index] for index in indices]
        texts = distinct_texts(model, part)
        probabilities = torch.empty(0)
        for index, batch in distributions(model, texts.texts, batch_tokens):
            if not len(probabilities):
                probabilities = torch.empty(len(texts.texts), batch.shape[1], dtype=batch.dtype, device=batch.device)  # (n, V)
            probabilities[index] = batch
        tokens = probabilities.argmax(-1).cpu().numpy()  # (n,)
        for prompt, query, demos in zip(part, texts.query, texts.demos, strict=True):
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "similarity": (probabilities[demos] @ probabilities[query]).cpu().double().tolist(),  # (D, V) @ (V,)
                    "query_token": int(tokens[query]),
                    "demo_tokens": tokens[demos].tolist(),
                }
            )
        progress(len(part))
    return pd.DataFrame(rows)
