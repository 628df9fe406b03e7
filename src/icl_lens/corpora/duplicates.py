"""Test texts that are also training texts.

A query that is also a training text can be its own demonstration, and the model may have been fitted to its label.
"""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from icl_lens.errors import InputError

logger = logging.getLogger(__name__)


def count_and_drop(task: str, table: pd.DataFrame, drop: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Count the test texts of a corpora table that are also training texts, and remove them if requested.

    Texts are equal if they have the same characters, apart from whitespace at both ends. The other texts keep their index.

    Args:
        task: Name of the task, for messages.
        table: Corpora table.
        drop: Whether to remove the duplicates from the test split.

    Returns:
        The table, and a dictionary with the keys ``duplicates`` (number of such test texts), ``texts`` (number of test texts,
        including them) and ``dropped`` (whether they were removed).

    Raises:
        InputError: No test text remains.
    """
    texts, is_test = table["text"].str.strip(), table["split"] == "test"
    duplicate = is_test & texts.isin(texts[~is_test])
    facts = {"duplicates": int(duplicate.sum()), "texts": int(is_test.sum()), "dropped": drop}
    if not facts["duplicates"]:
        return table, facts
    logger.warning(
        "task %s: %d of %d test texts are also training texts%s",
        task,
        facts["duplicates"],
        facts["texts"],
        ", and are removed" if drop else "; set data.drop_test_duplicates: true to remove them",
    )
    if drop and facts["duplicates"] == facts["texts"]:
        raise InputError(
            f"task {task}: all {facts['texts']} test texts are also training texts, so none remains; use another test file, or "
            "set data.drop_test_duplicates: false"
        )
    return (table[~duplicate].reset_index(drop=True) if drop else table), facts
