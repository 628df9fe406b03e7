"""Gold labels that are the model's own predictions, for queries whose correct label is unknown."""

from __future__ import annotations

from collections.abc import Sequence

from icl_lens.api.model import Model
from icl_lens.api.prompt import Prompt
from icl_lens.api.studies import of_study
from icl_lens.errors import InputError


def with_predicted_gold(model: Model, prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return prompts in which each unknown gold label is the label that the model predicts.

    With it, studies of the loss of the gold label, such as the saliency, explain the model's own prediction. Do not interpret
    the accuracy of such prompts.

    Args:
        model: The model.
        prompts: One or more prompts. A known gold label does not change.

    Raises:
        InputError: See :func:`icl_lens.icl`; or a prompt is too long for the model.
    """
    listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    unknown = [number for number, prompt in enumerate(listed) if prompt.gold is None]
    if not unknown:
        return listed
    predicted = of_study("icl")(model, [listed[number] for number in unknown]).set_index("prompt_id")["prediction"]
    for position, number in enumerate(unknown):
        if position not in predicted.index:
            raise InputError(f"prompt {number} is longer than the context of {model.name}, so it has no prediction")
        listed[number] = listed[number].with_gold(int(predicted[position]))
    return listed
