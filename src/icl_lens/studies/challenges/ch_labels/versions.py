"""Versions of the prompts with other labels in their demonstrations, and without demonstrations.

All versions of a prompt have the same query, and the same demonstration texts in the same order. With C classes, a
demonstration of class c has the label word of class

    gold            c
    inverted        (c + 1) mod C
    random          drawn uniformly from all classes; it can be c
    random-true     drawn from the gold labels of the queries in the prompts table
    wrong           drawn uniformly from the other classes
    one             the same class for all demonstrations (one version for each class)

and in ``words``, ``letters`` and ``strings`` class c has another label word, the same for all prompts. Random labels belong to
the demonstrations of a seed, so prompts that share the demonstrations also share the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.prompts.demonstrations import (
    demonstration_texts,
    demonstrations_digest,
    number_demonstrations,
    replace_demonstrations,
    replace_query,
)
from icl_lens.prompts.protocol import with_fewer_shots
from icl_lens.studies.challenges.ch_labels.study import DRAWN, NEW_WORDS, UNDEFINED, Condition, Settings


class Tokens(NamedTuple):
    """Tokens of a label word in a prompt: their number, and the ids of those that are scored, the first one or all."""

    count: int
    scored: tuple[int, ...]


Measure = Callable[[str], Tokens | None]
"""Function from a label word to its tokens; None if the word cannot be a label word with this tokenizer."""


def require_usable(table: pd.DataFrame) -> None:
    """Check that all prompts have demonstrations and the same label words.

    Raises:
        InputError: A prompt has no demonstrations or other label words than the first one.
    """
    first = table.iloc[0]
    for row in table.itertuples(index=False):
        if not len(row.demo_labels):
            raise InputError(
                f"prompt {row.prompt_id} has no demonstrations, but this study changes their labels; use prompts with "
                "demonstrations (the study itself removes them for its condition none)"
            )
        if list(row.label_words) != list(first["label_words"]):
            raise InputError(
                f"prompt {row.prompt_id} has the label words {_listed(row.label_words)}, but prompt {first['prompt_id']} has "
                f"{_listed(first['label_words'])}; use one prompts table for each set of label words"
            )


def version(
    table: pd.DataFrame, condition: Condition, settings: Settings, words: Sequence[str], true: np.ndarray
) -> pd.DataFrame:
    """Return the prompts of a table with the labels of a condition.

    Args:
        table: A prompts table.
        condition: The condition.
        settings: The settings of the study.
        words: The label words of the condition.
        true: Frequency of each class for ``random-true``, shape (C,).
    """
    if condition.name == "none":
        return with_fewer_shots(table, 0)
    rows = []
    for row in table.to_dict("records"):
        labels = new_labels(row, condition, settings, true)
        renamed = {**row, "label_words": list(words)}
        rows.append({**renamed, **replace_demonstrations(renamed, demonstration_texts(row), labels)})
    return pd.DataFrame(rows)


def new_labels(row: dict, condition: Condition, settings: Settings, true: np.ndarray) -> list[int]:
    """Return the class whose label word each demonstration of a prompt has, see the module docstring.

    Args:
        row: A row of a prompts table.
        condition: A condition with demonstrations.
        settings: The settings of the study.
        true: Frequency of each class for ``random-true``, shape (C,).
    """
    labels, classes = [int(label) for label in row["demo_labels"]], len(row["label_words"])
    name = condition.name
    if name == "gold" or name in NEW_WORDS:
        return labels
    if name == "inverted":
        return [(label + 1) % classes for label in labels]
    if name == "one":
        return [condition.draw] * len(labels)
    key = [settings.seed, DRAWN.index(name), condition.draw, int(row["seed"]), demonstrations_digest(row)]
    generator = np.random.default_rng(key)
    if name == "wrong":
        return [
            (label + 1 + int(step)) % classes
            for label, step in zip(labels, generator.integers(0, classes - 1, len(labels)), strict=True)
        ]
    return generator.choice(classes, len(labels), p=None if name == "random" else true).tolist()


def shown_class(true: Sequence[int], labels: Sequence[int], gold: int) -> int:
    """Return the class whose label word most demonstrations of the gold class have, :data:`UNDEFINED` for a tie or for none.

    Args:
        true: Class of each demonstration's text.
        labels: Class of each demonstration's label word.
        gold: Class of the query.
    """
    of_gold = [label for own, label in zip(true, labels, strict=True) if own == gold]
    counts = sorted(((of_gold.count(label), label) for label in set(of_gold)), reverse=True)
    if not counts or (len(counts) > 1 and counts[0][0] == counts[1][0]):
        return UNDEFINED
    return counts[0][1]


def content_free(table: pd.DataFrame, texts: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return prompts with content-free queries, and which of them belong to each prompt.

    Prompts with the same demonstrations have the same content-free prompts.

    Args:
        table: A prompts table of N rows.
        texts: F content-free texts.

    Returns:
        The prompts, F for each set of demonstrations, and the number of each prompt's set, shape (N,).
    """
    records = table.to_dict("records")
    sets = np.array(number_demonstrations(records))  # (N,)
    _, firsts = np.unique(sets, return_index=True)
    rows = [{**records[i], **replace_query(records[i], text)} for i in firsts for text in texts]
    return pd.DataFrame(rows).assign(prompt_id=range(len(rows))), sets


def choose_words(name: str, original: Sequence[str], candidates: Sequence[str], measure: Measure) -> list[str]:
    """Choose a new label word for each class.

    A candidate is suitable if its first token differs from those of all original and other new label words. If whole label
    words are scored, it is suitable if it does not begin with all tokens of such a word, and no such word begins with all of
    its tokens. The first suitable candidate with as many tokens as the original label word is chosen; if there is none, the
    first one with the closest number of tokens.

    Args:
        name: Name of the condition.
        original: The original label words, with their leading spaces.
        candidates: The candidates, without leading spaces.
        measure: See :data:`Measure`.

    Raises:
        InputError: There are too few suitable candidates.
    """
    space = " " if original[0].startswith(" ") else ""
    lengths = [measure(word) for word in original]
    taken = [each.scored for each in lengths if each]
    rest = iter(dict.fromkeys(f"{space}{word}" for word in candidates))
    suitable: dict[str, Tokens] = {}
    chosen: list[str] = []
    for of_class in lengths:
        wanted = of_class.count if of_class else 1
        while not any(tokens.count == wanted for tokens in suitable.values()):
            word = next(rest, None)
            if word is None:
                break
            tokens = measure(word)
            if tokens and not any(_begins_with(tokens.scored, each) or _begins_with(each, tokens.scored) for each in taken):
                suitable[word] = tokens
                taken.append(tokens.scored)
        if not suitable:
            raise InputError(
                f"studies.ch_labels.{name} contains only {len(chosen)} texts that differ from each other and from the label "
                f"words in the tokens that are scored, but the task has {len(original)} classes; add texts to "
                f"studies.ch_labels.{name}, or remove {name} from studies.ch_labels.conditions"
            )
        word = min(suitable, key=lambda word: abs(suitable[word].count - wanted))
        del suitable[word]
        chosen.append(word)
    return chosen


def _begins_with(tokens: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return tokens[: len(others)] == others


def _listed(words: Sequence[str]) -> str:
    return ", ".join(word.strip() for word in words)
