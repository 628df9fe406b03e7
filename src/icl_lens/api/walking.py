"""One prompt on one page, in a notebook or as a file."""

from __future__ import annotations

from icl_lens.api import tables
from icl_lens.api.model import Model
from icl_lens.api.tables import Prompts
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.report import prompt_page
from icl_lens.report.prompt_page import PromptPage
from icl_lens.short_repr import short_repr


def walk(model: Model, prompt: Prompts) -> PromptPage:
    """Compute everything that the page of one prompt shows.

    The page has the information flow and the attention weights by layer and head, the prediction with each label word isolated,
    the prediction without the attention of the last position to each class of tokens, the probabilities of the label words
    after each layer (logit lens), and the shares S_wp, S_pq and S_ww by layer. A notebook shows it as the last value of a cell.
    ``walk(model, prompt).save("walk.html")`` writes it to a file.

    If the prompt has no gold label, the information flow is that of the loss of the predicted label.

    Args:
        model: The model.
        prompt: The prompt, or a prompts table with one row.

    Returns:
        The page.

    Raises:
        InputError: The prompt has no demonstration or is too long for the model's context, the model is not supported, or there
            is not exactly one prompt.
    """
    if not isinstance(model, Model):
        raise InputError(
            "walk: model must be an icl_lens.Model, which icl_lens.load and icl_lens.wrap return, got "
            f"{short_repr(type(model).__name__)}"
        )
    table = tables.read("prompt", prompt, PROMPTS)
    with model.evaluation() as language_model:
        return prompt_page.compute(language_model, table, model.options)
