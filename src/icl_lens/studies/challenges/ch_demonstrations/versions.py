"""Versions of a prompt with some of its demonstrations, changed demonstrations, or another query.

A version is named by its pieces in order: demonstration i of the K demonstrations is piece i. It has two changed forms: piece
K + 2 i has the label of the next class, and piece K + 2 i + 1 has nonsense words instead of its text. The *target* of a
prompt is the demonstration whose changed forms the controls use: one with the label of the gold class, if there is one. All
queries with the same demonstrations and the same gold class have the same target.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.prompts.demonstrations import (
    CONTENT_FREE,
    demonstration_texts,
    demonstrations_digest,
    keep_demonstrations,
    number_demonstrations,
    replace_demonstrations,
    replace_query,
)
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_demonstrations import shapley
from icl_lens.studies.challenges.ch_demonstrations.shapley import Coalition, Plan
from icl_lens.studies.challenges.ch_demonstrations.study import PLAIN, Settings

Pieces = tuple[int, ...]
"""Name of a version."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Version:
    """A tokenized version of a prompt.

    Attributes:
        ids: Token ids, shape (T,).
        query: Position of the first token of the query's text, at most T - 1.
    """

    ids: np.ndarray
    query: int


@dataclass(frozen=True)
class Game:
    """A game whose players are demonstrations.

    Attributes:
        plan: Its coalitions.
        pieces: The piece of each player.
        order: Place of each player in the prompt.
        labels: Class index of each player.
    """

    plan: Plan
    pieces: Sequence[int]
    order: Sequence[float]
    labels: Sequence[int]

    def version(self, coalition: Coalition) -> Pieces:
        """Return the version of the prompt with the players of a coalition."""
        return tuple(self.pieces[i] for i in sorted(coalition, key=lambda i: self.order[i]))


@dataclass(frozen=True)
class Versions:
    """Versions of one prompt.

    Attributes:
        target: The demonstration that the controls change.
        games: Control -> its game.
        own: Each version that a game needs.
        content_free: The versions of the plain game with each of :data:`icl_lens.prompts.demonstrations.CONTENT_FREE` as the
            query. Prompts with the same demonstrations share one list.
    """

    target: int
    games: dict[str, Game]
    own: dict[Pieces, Version] = field(default_factory=dict)
    content_free: list[dict[Pieces, Version]] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest version."""
        return max(len(version.ids) for each in (self.own, *self.content_free) for version in each.values())


def build(table: pd.DataFrame, tokenize: Callable[[pd.DataFrame], list[TokenizedPrompt]], settings: Settings) -> list[Versions]:
    """Build the versions of each prompt of a table.

    Args:
        table: A prompts table.
        tokenize: Function that tokenizes a prompts table.
        settings: The settings of the study.

    Raises:
        InputError: A version cannot be tokenized.
    """
    rows = table.to_dict("records")
    places = table.groupby("seed")["prompt_id"].rank().astype(int).tolist()  # from 1
    found = []
    for row, place in zip(rows, places, strict=True):
        key = _key(row, settings)
        labels = np.array(row["demo_labels"])  # (K,)
        candidates = np.flatnonzero(labels == row["gold"]) if row["gold"] in labels else np.arange(len(labels))
        target = int(np.random.default_rng([*key, 0, int(row["gold"])]).choice(candidates))
        found.append(Versions(target, games(row, target, settings, key, place <= settings.control_queries)))
    wanted = [(number, pieces) for number, versions in enumerate(found) for pieces in _needed(versions.games.values())]
    written = [write(rows[number], pieces, settings) for number, pieces in wanted]
    for (number, pieces), version in zip(wanted, _tokenized(written, tokenize), strict=True):
        found[number].own[pieces] = version
    _add_content_free(rows, found, tokenize, settings)
    return found


def games(row: dict, target: int, settings: Settings, key: Sequence[int], controls: bool) -> dict[str, Game]:
    """Return the games of a prompt: the plain one and, if ``controls``, those of the controls."""
    labels = [int(label) for label in row["demo_labels"]]
    count, classes = len(labels), len(row["label_words"])
    players = list(range(count))

    def replaced(values: Sequence[int], value: int) -> list[int]:
        return [value if i == target else each for i, each in enumerate(values)]

    plan = shapley.plan(count, settings.exact, settings.pairs, [*key, 1])
    found = {PLAIN: Game(plan, players, players, labels)}
    if not controls:
        return found
    flipped = replaced(labels, (labels[target] + 1) % classes)
    found["flipped"] = Game(plan, replaced(players, count + 2 * target), players, flipped)
    found["nonsense"] = Game(plan, replaced(players, count + 2 * target + 1), players, labels)
    # A duplicate is computed exactly if the plain game is, because most of its versions are also in the plain game.
    exact = count + 1 if count <= settings.exact else settings.exact
    twice = shapley.plan(count + 1, exact, settings.pairs, [*key, 2])
    found["duplicate"] = Game(twice, [*players, target], [*players, target + 0.5], [*labels, labels[target]])
    found["reversed"] = Game(plan, players, players[::-1], labels)
    return found


def write(row: dict, pieces: Pieces, settings: Settings) -> dict:
    """Return the row of a version of a prompt.

    Args:
        row: The row of the prompt.
        pieces: The version.
        settings: The settings of the study.
    """
    count, classes = len(row["demo_labels"]), len(row["label_words"])
    kept = {**row, **keep_demonstrations(row, [piece if piece < count else (piece - count) // 2 for piece in pieces])}
    if max(pieces, default=0) < count:
        return kept
    texts, labels = demonstration_texts(kept), list(kept["demo_labels"])
    for place, piece in enumerate(pieces):
        if piece < count:
            continue
        if (piece - count) % 2:
            texts[place] = nonsense(texts[place], _key(row, settings))
        else:
            labels[place] = (labels[place] + 1) % classes
    return {**kept, **replace_demonstrations(kept, texts, labels)}


def nonsense(text: str, key: Sequence[int]) -> str:
    """Return as many nonsense words as a text has words, each of two or three syllables of a consonant and a vowel."""
    generator = np.random.default_rng([*key, 3])

    def word() -> str:
        syllables = range(int(generator.integers(2, 4)))
        return "".join(str(generator.choice(list(_CONSONANTS)) + generator.choice(list(_VOWELS))) for _ in syllables)

    return " ".join(word() for _ in text.split())


def _key(row: dict, settings: Settings) -> list[int]:
    """Return the key of the random numbers of a demonstration set."""
    return [settings.seed, zlib.crc32(str(row["task"]).encode()), demonstrations_digest(row)]


def _needed(of_games: Iterable[Game]) -> list[Pieces]:
    """Return the distinct versions of some games, in a fixed order."""
    found = {game.version(coalition) for game in of_games for coalition in game.plan.coalitions}
    return sorted(found, key=lambda pieces: (len(pieces), pieces))


def _add_content_free(
    rows: Sequence[dict[str, Any]],
    found: Sequence[Versions],
    tokenize: Callable[[pd.DataFrame], list[TokenizedPrompt]],
    settings: Settings,
) -> None:
    """Add the versions with content-free queries, once for all prompts with the same demonstrations."""
    groups: dict[int, list[int]] = {}
    for number, demonstrations in enumerate(number_demonstrations(rows)):
        groups.setdefault(demonstrations, []).append(number)
    wanted, written = [], []
    for first, *_ in groups.values():
        for pieces in _needed([found[first].games[PLAIN]]):
            row = write(rows[first], pieces, settings)
            for place, query in enumerate(CONTENT_FREE):
                wanted.append((first, place, pieces))
                written.append({**row, **replace_query(row, query)})
    for first, *others in groups.values():
        for number in (first, *others):
            found[number].content_free.extend(found[first].content_free if number != first else [{} for _ in CONTENT_FREE])
    for (first, place, pieces), version in zip(wanted, _tokenized(written, tokenize), strict=True):
        found[first].content_free[place][pieces] = version


def _tokenized(rows: Sequence[dict[str, Any]], tokenize: Callable[[pd.DataFrame], list[TokenizedPrompt]]) -> list[Version]:
    """Tokenize rows of a prompts table, of which several can have the same prompt_id."""
    try:
        prompts = tokenize(pd.DataFrame(rows).assign(prompt_id=range(len(rows))))
    except InputError:
        for row in rows:  # one by one, so that the message names the prompt
            tokenize(pd.DataFrame([row]))
        raise
    return [_version(prompt) for prompt in prompts]


def _version(prompt: TokenizedPrompt) -> Version:
    start = int(np.searchsorted(prompt.spans[:, 1], prompt.query_span[0], side="right"))
    return Version(prompt.ids, min(start, prompt.last))
