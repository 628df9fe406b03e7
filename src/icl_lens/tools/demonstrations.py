"""Prompts whose demonstrations are a person's own, for ``icl-lens compress``, ``reweight-components`` and ``classify``."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts import chat
from icl_lens.prompts.positions import Bos, TokenizedPrompt, tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.tasks.task import Task


def prompts_of(
    model: LanguageModel,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    queries: Sequence[str],
    bos: Bos,
    as_chat: bool,
) -> list[TokenizedPrompt]:
    """Prompts that hold all demonstrations and each a query; nothing of them is run.

    Args:
        model: Its tokenizer reads them.
        task: Template and label words.
        texts: The demonstrations' texts, in prompt order.
        labels: Their class indices.
        queries: The texts that are asked about.
        bos: See :func:`icl_lens.prompts.positions.tokenize`.
        as_chat: Whether prompts are written as a chat, see :func:`icl_lens.prompts.chat.wrap`.
    """
    shared = {"gold": 0, "seed": 0, "label_words": list(task.label_words), "demo_labels": list(labels)}
    rows = [{"prompt_id": n, **shared, **write_prompt(task, list(texts), list(labels), q)} for n, q in enumerate(queries)]
    table = pd.DataFrame(rows)
    return tokenize(chat.wrap(table, model.tokenizer) if as_chat else table, model.tokenizer, bos)


def require_room(model: LanguageModel, where: str, prompt: TokenizedPrompt) -> None:
    """Checks that a prompt fits the model's context.

    Args:
        model: The model.
        where: What the sentence calls the text that is asked about, "line 3".
        prompt: The text behind the demonstrations.

    Raises:
        InputError: It does not.
    """
    if model.context is not None and len(prompt.ids) > model.context:
        raise InputError(
            f"{where}: with the demonstrations before it, it is {len(prompt.ids)} tokens, and the context of {model.name} is "
            f"{model.context}; shorten it, or use fewer demonstrations"
        )
