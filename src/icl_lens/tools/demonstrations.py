"""Prompts with the user's own demonstrations, for ``icl-lens compress``, ``reweight-components`` and ``classify``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.options import RunOptions
from icl_lens.models.tokenizing import tokenize_table
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.protocol import write_prompt
from icl_lens.tasks.task import Task

logger = logging.getLogger(__name__)


def build_prompts(
    model: LanguageModel,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    queries: Sequence[str],
    options: RunOptions,
) -> list[TokenizedPrompt]:
    """Build one tokenized prompt per query, each with all demonstrations. The model is not run.

    Args:
        model: The model that provides the tokenizer.
        task: The task, with template and label words.
        texts: The texts of the demonstrations, in prompt order.
        labels: The class indices of the demonstrations.
        queries: The texts of the queries.
        options: How to write the prompts.
    """
    shared = {"gold": 0, "seed": 0, "label_words": list(task.label_words), "demo_labels": list(labels)}
    rows = [{"prompt_id": n, **shared, **write_prompt(task, list(texts), list(labels), q)} for n, q in enumerate(queries)]
    table = pd.DataFrame(rows)
    return tokenize_table(table, model.tokenizer, options)


def warn_of_repeated(texts: Sequence[str], queries: Sequence[str], locations: Sequence[str]) -> None:
    """Log a warning if queries are also demonstrations, because the model reads their labels in the prompt.

    Texts are equal if they have the same characters, apart from whitespace at both ends.

    Args:
        texts: The texts of the demonstrations.
        queries: The texts of the queries.
        locations: The description of each query, such as "line 3".
    """
    demonstrations = {text.strip() for text in texts}
    repeated = [location for location, query in zip(locations, queries, strict=True) if query.strip() in demonstrations]
    if repeated:
        logger.warning(
            "%d of %d texts are also demonstrations, so the prompt contains their label; the first is %s",
            len(repeated),
            len(queries),
            repeated[0],
        )


def require_fits_context(model: LanguageModel, location: str, prompt: TokenizedPrompt) -> None:
    """Check that a prompt fits into the context length of a model.

    Args:
        model: The model.
        location: The description of the query's text in the error message, such as "line 3".
        prompt: The prompt, with demonstrations and query.

    Raises:
        InputError: The prompt is too long.
    """
    tokens = len(prompt.ids) + prompt.appended
    if model.context is not None and tokens > model.context:
        raise InputError(
            f"{location}: the text has {tokens} tokens with the demonstrations, but the context of {model.name} has "
            f"only {model.context} tokens; shorten the text or use fewer demonstrations"
        )
