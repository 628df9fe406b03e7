"""Rules that rewrite test texts with rare words, complex syntax or typos and keep their meaning.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1: the accuracy should be lower on texts that are
unlike those of pre-training. The paper rewrites them with GPT-3.5, which cannot be reproduced. This module uses rules instead,
which are easy to inspect:

    rare_words      each word that has a rare synonym in a list is replaced with it
    complex_syntax  clauses that express no opinion are put around the text
    typos           each letter is, with a given probability, swapped with the next, dropped, doubled or mistyped

The list is :data:`icl_lens.studies.kernel_regression.rewritten.rare_words.RARE_WORDS`. Only the query's text is rewritten; the
demonstrations do not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.studies.kernel_regression.rewritten.rare_words import RARE_WORDS
from icl_lens.studies.kernel_regression.rewritten.study import REWRITINGS, Rewriting, Settings

# Neighbouring keys on a keyboard.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, letter in enumerate(row)}

# {} is replaced with the text. No clause expresses an opinion.
_CLAUSES = (
    "as has been remarked by some of those who were present , {}",
    "it should be noted , whatever else may be said about it , that {}",
    "{} , which is what was reported by the person who wrote this down",
    "that which follows is , insofar as it concerns the matter at hand , as follows : {}",
    "although there are others to whom it may never have occurred to say so , {}",
    "{} , or so it was put by someone whose name is not known",
    "of all that could be stated in this regard , what is stated here is that {}",
    "were one to be asked about it , the answer that one would give is that {}",
)


def rare_words(text: str) -> str:
    """Replace each listed word with its rare synonym and keep its capitalization."""

    def replace(match: re.Match) -> str:
        word = match[0]
        rare = RARE_WORDS.get(word.lower())
        if rare is None:
            return word
        if word.isupper() and len(word) > 1:
            return rare.upper()
        return rare[:1].upper() + rare[1:] if word[:1].isupper() else rare

    return re.sub(r"[A-Za-z]+", replace, text)


def share_replaced(text: str) -> float:
    """Return the share of a text's words that :func:`rare_words` replaces; 0 for a text without words."""
    words = re.findall(r"[A-Za-z]+", text)
    return sum(word.lower() in RARE_WORDS for word in words) / len(words) if words else 0.0


def complex_syntax(text: str, clauses: int, generator: np.random.Generator) -> str:
    """Put the text inside several clauses; a full stop at its end moves to the end of the result.

    Raises:
        InputError: Fewer clauses are available than requested.
    """
    if clauses > len(_CLAUSES):
        raise InputError(
            f"studies.rewritten.clauses is {clauses}, but only {len(_CLAUSES)} clauses are available; choose a smaller number"
        )
    match = re.fullmatch(r"(.*?)(\s*[.!?]?\s*)", text, flags=re.DOTALL)
    inner, end = match[1], match[2]
    for number in generator.permutation(len(_CLAUSES))[:clauses]:
        inner = _CLAUSES[number].replace("{}", inner)
    return inner + end


def typos(text: str, probability: float, generator: np.random.Generator) -> str:
    """Change each ASCII letter with some probability: swap it with the next, drop it, double it or use a neighbouring key.

    At least one letter remains.
    """
    letters = list(text)
    output: list[str] = []
    position = 0
    while position < len(letters):
        letter = letters[position]
        is_letter = letter.isascii() and letter.isalpha()
        if is_letter and generator.random() < probability:
            next_letter = letters[position + 1] if position + 1 < len(letters) else ""
            edit = generator.integers(4)
            if edit == 0 and next_letter.isascii() and next_letter.isalpha():
                output += [next_letter, letter]
                position += 1
            elif edit == 1:
                pass
            elif edit == 2:
                output += [letter, letter]
            else:
                neighbours = _NEIGHBOURS[letter.lower()]
                typo = neighbours[generator.integers(len(neighbours))]
                output.append(typo.upper() if letter.isupper() else typo)
        else:
            output.append(letter)
        position += 1
    return "".join(output) if "".join(output).strip() else text


def rewrite(prompts: pd.DataFrame, rewriting: Rewriting, settings: Settings) -> pd.DataFrame:
    """Rewrite the text of each query in a prompts table and shift the spans after it.

    Args:
        prompts: A prompts table.
        rewriting: One of :data:`~icl_lens.studies.kernel_regression.rewritten.study.REWRITINGS`.
        settings: Settings of the rewriting. The result for a query depends only on them and on the query's own text, not on the
            other rows of the table.

    Raises:
        InputError: The settings request more clauses than are available.
    """
    functions: dict[Rewriting, Callable[[str, np.random.Generator], str]] = {
        "original": lambda text, generator: text,
        "rare_words": lambda text, generator: rare_words(text),
        "complex_syntax": lambda text, generator: complex_syntax(text, settings.clauses, generator),
        "typos": lambda text, generator: typos(text, settings.typos, generator),
    }

    def rewrite_row(row: dict) -> dict:
        start, end = (int(edge) for edge in row["query_span"])
        old = row["text"][start:end]
        generator = np.random.default_rng([settings.seed, REWRITINGS.index(rewriting), *old.encode()])
        new = functions[rewriting](old, generator)
        shift = len(new) - len(old)

        def move(span) -> list[int]:
            return [int(edge) + (shift if int(span[0]) >= end else 0) for edge in span]

        return {
            **row,
            "text": row["text"][:start] + new + row["text"][end:],
            "query_span": [start, end + shift],
            **{name: [move(span) for span in row[name]] for name in ("label_spans", "text_spans", "prefix_spans")},
        }

    return pd.DataFrame([rewrite_row(row) for row in prompts.to_dict("records")], columns=prompts.columns)
