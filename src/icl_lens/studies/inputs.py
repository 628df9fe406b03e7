"""From tables of prompts to what a study computes on: the prompts as a model reads them, those that fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from icl_lens.models.batching import fitting
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import Bos, TokenizedPrompt


@dataclass(frozen=True)
class Given:
    """What was read for a study.

    Attributes:
        model: The loaded model.
        table: The prompts table.
        further: Further prompts tables, by the names of their options.
        settings: The study's, None where it has none.
        bos: Whether a beginning-of-sequence token is put before each prompt, see :func:`icl_lens.prompts.positions.tokenize`.
        as_chat: Whether each prompt is written as a chat first.
        tokenize: A table of prompts as the model reads them, written as chats where ``as_chat`` says so.
    """

    model: LanguageModel
    table: pd.DataFrame
    further: Mapping[str, pd.DataFrame]
    settings: Any
    bos: Bos
    as_chat: bool
    tokenize: Callable[[pd.DataFrame], list[TokenizedPrompt]]

    def rows_of(self, prompts: list[TokenizedPrompt]) -> pd.DataFrame:
        """The rows of the prompts table that some prompts are."""
        return self.table[self.table["prompt_id"].isin([p.prompt_id for p in prompts])]


@dataclass(frozen=True)
class Inputs:
    """What ``compute`` takes.

    Attributes:
        prompts: The prompts that the study is about.
        left_out: How many prompts are too long for the model's context.
        more: Further arguments of ``compute``, by name.
        facts: What else decides the content, for the table's metadata: name -> value that JSON can hold.
    """

    prompts: list[TokenizedPrompt]
    left_out: int
    more: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def of_table(given: Given) -> Inputs:
    """The prompts of the table that fit the model's context: what most studies are about.

    Raises:
        InputError: None fits.
    """
    return of_tables(given, {"prompts": given.table})


def of_tables(given: Given, tables: Mapping[str, pd.DataFrame]) -> Inputs:
    """Of several tables of the same prompts, written differently, the prompts that fit the model's context in all of them.

    Args:
        given: What was read.
        tables: Name of the argument of ``compute`` -> its table; one is ``prompts``.

    Raises:
        InputError: None fits.
    """
    tokenized = {key: given.tokenize(table) for key, table in tables.items()}
    kept = {key: fitting(given.model, prompts) for key, prompts in tokenized.items()}
    everywhere = set.intersection(*({p.prompt_id for p in prompts} for prompts in kept.values()))
    kept = {key: [p for p in prompts if p.prompt_id in everywhere] for key, prompts in kept.items()}
    prompts = kept.pop("prompts")
    return Inputs(prompts, len(tokenized["prompts"]) - len(prompts), kept)
