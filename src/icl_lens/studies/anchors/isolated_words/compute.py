"""Most likely next tokens with isolated label words, which show why word loyalty is needed in addition to label loyalty.

*Label Words are Anchors*, section 2.2 and appendix C (Table 5): with label words isolated in the first layers, the predicted
label may stay the same although the most likely tokens of the whole vocabulary change. The runs come from
:mod:`icl_lens.models.isolated_runs`, with isolation in the first or in the last k layers.

The paper shows one prompt and does not report how it was selected. This study selects, for each class, the first prompt of the
class that the model predicts correctly, or the first prompt of the class if there is no correct prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import batches, group_by_prefix
from icl_lens.models.isolated_runs import runs
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores, predictive_logits
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolated_words.study import Settings
from icl_lens.studies.anchors.isolating import main_layers

# Number of prompts predicted at a time until each class has a correctly predicted prompt.
_CHUNK = 64


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the prediction and the most likely next tokens of one prompt per class, without and with isolated label words.

    Args:
        model, prompts, batch_tokens, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        progress: Called with the number of prompts that were examined.

    Raises:
        InputError: A prompt has no demonstration, the settings request more layers than the model has, or the model's family is
            not supported.

    Returns:
        One row per prompt and condition, in the order of the prompts: prompt_id, gold (class index), side (none, first or last:
        the layers in which label words are isolated), layers (k; 0 for none), prediction (class index), top_tokens (texts of
        the most likely next tokens, in descending order of probability), top_log_probs (their log-probabilities, in nats).
    """
    settings = settings or Settings()
    k = settings.layers or main_layers(model.layers)
    if k > model.layers:
        raise InputError(
            f"studies.isolated_words.layers is {k}, but the model has only {model.layers} layers; choose a smaller number"
        )
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but isolation requires label words; use prompts with "
            "demonstrations"
        )
    require_supported(model.network)
    examples = _examples(model, prompts, batch_tokens, progress)
    conditions = {"none": range(0), "first": range(k), "last": range(model.layers - k, model.layers)}
    anchors = [prompt.anchors for prompt in examples]
    rows: dict[tuple[int, str], dict] = {}
    for side, layers in conditions.items():
        for group in group_by_prefix(model, examples):
            positions = anchors if layers else None
            for batch, logits in runs(model, examples, group, positions, layers, settings.blocking, batch_tokens):
                predictions = class_scores(batch, logits).argmax(-1).tolist()  # (B,)
                for row, i in zip(batch.first_rows, batch.prompts, strict=True):
                    rows[i, side] = {
                        "prompt_id": examples[i].prompt_id,
                        "gold": examples[i].gold,
                        "side": side,
                        "layers": len(layers),
                        "prediction": predictions[row],
                        **_top_tokens(model, logits[row], settings.words),
                    }
    return pd.DataFrame([rows[i, side] for i in range(len(examples)) for side in conditions])


def _examples(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
) -> list[TokenizedPrompt]:
    """Return the first correctly predicted prompt of each class, or else its first prompt, in the order of the prompts."""
    first: dict[int, int] = {}
    for i, prompt in enumerate(prompts):
        first.setdefault(prompt.gold, i)
    correct: dict[int, int] = {}
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        if len(correct) < len(first):
            answers = {}
            for batch in batches(model, chunk, batch_tokens, score=True):
                predictions = class_scores(batch, predictive_logits(model, batch)).argmax(-1)  # (B,)
                answers |= dict(zip(batch.index, predictions.tolist(), strict=True))
            for i, prompt in enumerate(chunk):
                if answers[i] == prompt.gold:
                    correct.setdefault(prompt.gold, start + i)
        progress(len(chunk))
    return [prompts[i] for i in sorted((first | correct).values())]


def _top_tokens(model: LanguageModel, logits: Tensor, words: int) -> dict[str, list]:
    """Return the most likely next tokens of one prompt, as texts, and their log-probabilities.

    Args:
        model: The model; its tokenizer decodes the tokens.
        logits: Logits of all tokens, shape (V,).
        words: Number of tokens.
    """
    top = logits.topk(min(words, len(logits)))  # (W,) each
    log_probs = logits.cpu().double().log_softmax(-1)[top.indices.cpu()]  # (W,)
    texts = [model.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in top.indices.tolist()]
    return {"top_tokens": texts, "top_log_probs": log_probs.tolist()}
