"""Preparation of a study's inputs: tokenized prompts, made from prompts tables, that fit the model's context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from icl_lens.models.batching import fitting
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.forms import Bos, Chat
from icl_lens.prompts.positions import TokenizedPrompt


@dataclass(frozen=True)
class Given:
    """The model, tables and options that a study's ``inputs`` function receives.

    Attributes:
        model: The loaded model.
        table: The prompts table.
        further: Further prompts tables, by the names of their options.
        settings: The study's settings, or None if it has none.
        bos: Whether to prepend the BOS token to each prompt, see :func:`icl_lens.prompts.positions.tokenize`.
        as_chat: Whether to convert each prompt to a chat first, and to which form, see :mod:`icl_lens.prompts.chat`.
        tokenize: Function that tokenizes a prompts table for the model, and converts the prompts to chats if ``as_chat`` is
            set.
    """

    model: LanguageModel
    table: pd.DataFrame
    further: Mapping[str, pd.DataFrame]
    settings: Any
    bos: Bos
    as_chat: Chat
    tokenize: Callable[[pd.DataFrame], list[TokenizedPrompt]]

    def rows_of(self, prompts: list[TokenizedPrompt]) -> pd.DataFrame:
        """Return the rows of the prompts table that belong to the given prompts."""
        return self.table[self.table["prompt_id"].isin([p.prompt_id for p in prompts])]


@dataclass(frozen=True)
class Inputs:
    """Arguments of ``compute``.

    Attributes:
        prompts: The prompts that the study runs on.
        left_out: Number of prompts that are too long for the model's context.
        more: Further arguments of ``compute``, by name.
        facts: Further facts that determine the content, for the table's metadata: name -> JSON-serializable value.
    """

    prompts: list[TokenizedPrompt]
    left_out: int
    more: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def of_table(given: Given) -> Inputs:
    """Return the prompts of the table that fit the model's context. Most studies run on these.

    Raises:
        InputError: No prompt fits.
    """
    return of_tables(given, {"prompts": given.table})


def of_tables(given: Given, tables: Mapping[str, pd.DataFrame]) -> Inputs:
    """Return the prompts that fit the model's context in all of several tables.

    The tables hold different versions of the same prompts.

    Args:
        given: The model, tables and options of the run.
        tables: Name of the argument of ``compute`` -> its table. One name must be ``prompts``.

    Raises:
        InputError: No prompt fits.
    """
    tokenized = {key: given.tokenize(table) for key, table in tables.items()}
    kept = {key: fitting(given.model, prompts) for key, prompts in tokenized.items()}
    common_ids = set.intersection(*({p.prompt_id for p in prompts} for prompts in kept.values()))
    kept = {key: [p for p in prompts if p.prompt_id in common_ids] for key, prompts in kept.items()}
    prompts = kept.pop("prompts")
    return Inputs(prompts, len(tokenized["prompts"]) - len(prompts), kept)
