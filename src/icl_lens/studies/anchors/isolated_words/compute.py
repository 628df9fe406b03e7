"""What a model would say next when label words are isolated, in words: why word loyalty is measured beside label loyalty.

*Label Words are Anchors*, section 2.2 and appendix C (Table 5): with label words isolated in the first layers the predicted
label may stay while the likeliest tokens of the whole vocabulary become quite others. Isolation is that of
:mod:`icl_lens.studies.anchors.isolated_runs`, in the first and in the last k layers.

The paper shows one prompt and does not say how it was found. Here it is, for each class, the first prompt of that class that
the model answers right; where it answers none right, the first of that class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.batching import batches, sharing
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors.isolated_runs import runs
from icl_lens.studies.anchors.isolated_words.study import Settings
from icl_lens.studies.anchors.isolating import main_layers

# How many prompts are answered at a time until each class has one that is answered right.
_LOOKED_AT = 64


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predictions and likeliest next tokens of one prompt a class, plain and with its label words isolated.

    Args:
        model, prompts, batch_tokens, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        progress: Told how many prompts were looked at.

    Raises:
        InputError: A prompt has no demonstration, more layers are asked for than there are, or the model's family is not
            supported.

    Returns:
        One row per prompt and condition, prompts in their order: prompt_id, gold (class index), side (of the layers in which
        label words are isolated: none, first or last), layers (k; 0 for none), prediction (class index), top_tokens (texts of
        the likeliest next tokens, likeliest first), top_log_probs (their log-probabilities, nats).
    """
    settings = settings or Settings()
    k = settings.layers or main_layers(model.layers)
    if k > model.layers:
        raise InputError(f"isolation in {k} layers is asked for (layers), but the model has {model.layers}")
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; isolation needs label words")
    require_supported(model.network)
    taken = _examples(model, prompts, batch_tokens, progress)
    conditions = {"none": range(0), "first": range(k), "last": range(model.layers - k, model.layers)}
    anchors = [prompt.anchors for prompt in taken]
    rows: dict[tuple[int, str], dict] = {}
    for side, layers in conditions.items():
        for group in sharing(model, taken):
            cut = anchors if layers else None
            for batch, logits in runs(model, taken, group, cut, layers, settings.blocking, batch_tokens):
                predictions = logits.gather(1, batch.label_ids).argmax(-1).tolist()  # (B,)
                for place, row, prediction in zip(batch.index, logits, predictions, strict=True):
                    rows[place, side] = {
                        "prompt_id": taken[place].prompt_id,
                        "gold": taken[place].gold,
                        "side": side,
                        "layers": len(layers),
                        "prediction": prediction,
                        **_likeliest(model, row, settings.words),
                    }
    return pd.DataFrame([rows[place, side] for place in range(len(taken)) for side in conditions])


def _examples(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object],
) -> list[TokenizedPrompt]:
    """For each class that has a prompt, the first that is answered right, or else the first; in the prompts' order."""
    first: dict[int, int] = {}
    for place, prompt in enumerate(prompts):
        first.setdefault(prompt.gold, place)
    right: dict[int, int] = {}
    for start in range(0, len(prompts), _LOOKED_AT):
        looked_at = prompts[start : start + _LOOKED_AT]
        if len(right) < len(first):
            answers = {}
            for batch in batches(model, looked_at, batch_tokens):
                found = last_logits(model, batch).gather(1, batch.label_ids).argmax(-1)  # (B,)
                answers |= dict(zip(batch.index, found.tolist(), strict=True))
            for place, prompt in enumerate(looked_at):
                if answers[place] == prompt.gold:
                    right.setdefault(prompt.gold, start + place)
        progress(len(looked_at))
    return [prompts[place] for place in sorted((first | right).values())]


def _likeliest(model: LanguageModel, logits: Tensor, words: int) -> dict[str, list]:
    """The likeliest next tokens of one prompt, as text, and their log-probabilities.

    Args:
        model: Its tokenizer tells the texts.
        logits: Of every token, shape (V,).
        words: How many.
    """
    best = logits.topk(min(words, len(logits)))  # (W,) each
    log_probs = logits.cpu().double().log_softmax(-1)[best.indices.cpu()]  # (W,)
    texts = [model.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in best.indices.tolist()]
    return {"top_tokens": texts, "top_log_probs": log_probs.tolist()}
