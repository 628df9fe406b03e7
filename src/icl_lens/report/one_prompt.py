"""One prompt and its information flow, read from artifacts, for Figures 1 and 2 of *Label Words are Anchors*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import parquet
from icl_lens.errors import InputError
from icl_lens.report.descriptions import escaped
from icl_lens.studies.anchors.flow.study import STUDY as FLOW
from icl_lens.studies.anchors.icl.study import STUDY as ICL
from icl_lens.studies.anchors.tokens.study import STUDY as TOKENS

# Named layers, each with its relative depth r: in a model with L layers, the name refers to layer int(r * L).
NAMED = {"shallow": 1 / 5, "deep": 4 / 5}

# Text of a token that consists of spaces.
BLANK = "\u2423"


@dataclass(frozen=True)
class Rows:
    """Rows in which a prompt is drawn: one row per token, and one row for each run of tokens that is left out.

    Attributes:
        spans: Positions [start, end) of each row, in order. A row with several positions is a run that is left out.
    """

    spans: list[tuple[int, int]]

    @property
    def of_position(self) -> dict[int, int]:
        """Row of each position that is shown."""
        return {start: row for row, (start, end) in enumerate(self.spans) if end == start + 1}

    @property
    def left_out(self) -> dict[int, int]:
        """Number of tokens that are left out in each row of a run."""
        return {row: end - start for row, (start, end) in enumerate(self.spans) if end > start + 1}

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the text of each row.

        Args:
            words: Text of each token of the prompt.
        """
        return [words[a] if b == a + 1 else f"… {b - a} tokens not shown …" for a, b in self.spans]


@dataclass(frozen=True)
class OnePrompt:
    """A prompt and its information flow.

    Attributes:
        tokens: The prompt's rows of the tokens table, sorted by position.
        edges: The prompt's rows of the flow table.
        answer: The prompt's row of the icl table.
        about: Metadata of the flow table.
        label_words: The label word of each class, without surrounding spaces; the class index if the metadata give no label
            words.
    """

    tokens: pd.DataFrame
    edges: pd.DataFrame
    answer: pd.Series
    about: dict[str, Any]
    label_words: dict[int, str]

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return int(self.about["model"]["layers"])

    @property
    def anchors(self) -> list[int]:
        """Positions of the anchors: by default the first token of each label word."""
        return self.tokens.loc[self.tokens["class"] >= 0, "position"].tolist()

    @property
    def last(self) -> int:
        """The last position, at which the model predicts the label word."""
        return int(self.tokens["position"].iloc[-1])

    @property
    def words(self) -> list[str]:
        """Each token, escaped to fit on one line and without surrounding spaces."""
        return [escaped(token.strip(" ")) or BLANK for token in self.tokens["token"]]

    def text(self, start: int, end: int) -> str:
        """Return the text of positions [start, end) on one line."""
        tokens = self.tokens.iloc[start:end]
        blank = (tokens["start"] > tokens["end"].shift(fill_value=0)).map({True: " ", False: ""})
        return " ".join((blank + tokens["token"]).str.cat().split())

    def in_layer(self, layer: int) -> pd.DataFrame:
        """Return the edges of a layer, weakest first, with the columns ``relative`` and ``kind`` added.

        ``relative`` is the saliency divided by the largest saliency of the layer. ``kind`` is ``wp`` (into a label word),
        ``pq`` (from a label word to the last position) or ``ww`` (all other edges), see eq. 2 to 4.
        """
        edges = self.edges[self.edges["layer"] == layer].copy()
        largest = edges["saliency"].max()
        edges["relative"] = edges["saliency"] / largest if largest > 0 else 0.0
        edges["kind"] = "ww"
        starts = edges["query"].map(_starts(self.anchors))
        edges.loc[edges["key"] < starts, "kind"] = "wp"
        edges.loc[(edges["query"] == self.last) & edges["key"].isin(self.anchors), "kind"] = "pq"
        return edges.sort_values(["saliency", "query", "key"], ignore_index=True)

    def rows(self, edges: pd.DataFrame, most: int) -> Rows:
        """Choose the tokens to draw, in at most ``most`` rows.

        All tokens are drawn if they fit. Otherwise the last position is drawn, then label words in the order of their strongest
        edge, up to half of the rows, then both ends of the strongest edges.

        Args:
            edges: The edges to draw, with query, key and ``relative``, the strength by which they are compared.
            most: Maximum number of rows.
        """
        count = len(self.tokens)
        if count <= most:
            return Rows([(position, position + 1) for position in range(count)])
        shown: set[int] = set()
        rows = 1  # all tokens are one run

        def add(positions: Sequence[int], limit: int) -> None:
            """Show these positions if they fit into ``limit`` rows."""
            nonlocal rows
            missing = [position for position in dict.fromkeys(positions) if position not in shown]
            grown = rows
            for i, position in enumerate(missing):
                taken = shown.union(missing[:i])
                # A position in a run divides it, unless it is at an end of the run.
                grown += sum(0 <= place < count and place not in taken for place in (position - 1, position + 1))
            if grown <= limit:
                shown.update(missing)
                rows = grown

        strongest = edges.sort_values(["relative", "query", "key"], ascending=False)
        anchors = set(self.anchors)
        ends = [end for pair in zip(strongest["query"], strongest["key"], strict=True) for end in pair if end in anchors]
        add([self.last], most)
        for anchor in dict.fromkeys([*ends, *self.anchors]):
            add([anchor], most // 2)
        for query, key in zip(strongest["query"], strongest["key"], strict=True):
            add([query, key], most)
        spans: list[tuple[int, int]] = []
        for position in range(count):
            if spans and position not in shown and spans[-1][1] - 1 not in shown:
                spans[-1] = spans[-1][0], position + 1
            else:
                spans.append((position, position + 1))
        return Rows(spans)

    def omitted_share(self, layer: int) -> float:
        """Return the share of a layer's flow along edges that are not in the flow table."""
        edges = self.edges[self.edges["layer"] == layer]
        total = edges["layer_total"].iloc[0]
        return max(0.0, 1 - edges["saliency"].sum() / total) if total > 0 else 0.0


def read(folder: Path | str, prompt: int | None = None) -> OnePrompt:
    """Read a prompt from the tables in a folder.

    Args:
        folder: Folder that contains flow.parquet, tokens.parquet and icl.parquet of one model and prompt set.
        prompt: The prompt_id. By default, the first prompt in the flow table.

    Raises:
        InputError: If a table cannot be read, or if the flow table does not contain the prompt.
    """
    folder = Path(folder)
    edges, about = parquet.read(folder / "flow.parquet", FLOW.schema)
    found = edges["prompt_id"].unique().tolist()
    if prompt is not None and prompt not in found:
        raise InputError(
            f"prompt {prompt} is not in {folder / 'flow.parquet'} (available: {', '.join(map(str, found))}); set "
            "items.*.prompt to one of these, or add the prompt to studies.flow.also"
        )
    number = found[0] if prompt is None else prompt
    tokens, _ = parquet.read(folder / "tokens.parquet", TOKENS.schema)
    answers, _ = parquet.read(folder / "icl.parquet", ICL.schema)
    words = (about.get("task") or {}).get("label_words")
    answer = answers[answers["prompt_id"] == number].iloc[0]
    return OnePrompt(
        tokens=tokens[tokens["prompt_id"] == number].sort_values("position", ignore_index=True),
        edges=edges[edges["prompt_id"] == number].reset_index(drop=True),
        answer=answer,
        about=about,
        label_words={c: words[c].strip() if words else str(c) for c in range(len(answer["class_log_probs"]))},
    )


def kinds(anchors: Sequence[int], last: int) -> np.ndarray:
    """Return the kind of each edge from a key (column) to a query (row), see :meth:`OnePrompt.in_layer`, shape (T, T)."""
    result = np.full((last + 1, last + 1), "ww")
    for anchor, start in _starts(anchors).items():
        result[anchor] = "wp"
        result[anchor, start:anchor] = "ww"
    result[last, anchors] = "pq"
    return result


def _runs(anchors: Sequence[int]) -> list[tuple[int, int]]:
    """Return the [start, stop) positions of the anchors of each label word. Those of one label word are consecutive."""
    runs: list[tuple[int, int]] = []
    for anchor in anchors:
        if runs and runs[-1][1] == anchor:
            runs[-1] = runs[-1][0], anchor + 1
        else:
            runs.append((anchor, anchor + 1))
    return runs


def _starts(anchors: Sequence[int]) -> dict[int, int]:
    """Map each anchor to the first anchor of its label word."""
    return {anchor: start for start, stop in _runs(anchors) for anchor in range(start, stop)}


def layer_names(layers: Sequence[int | str], depth: int) -> dict[int, str]:
    """Map layer indices, counted from 0, to their names, in the given order and without duplicates.

    The name of a layer that is given as a number is empty.

    Args:
        layers: Layer indices, or names from :data:`NAMED`.
        depth: Number of layers of the model.

    Raises:
        InputError: If the model does not have one of the layers.
    """
    result: dict[int, str] = {}
    for layer in layers:
        number = int(NAMED[layer] * depth) if isinstance(layer, str) else layer
        if not 0 <= number < depth:
            raise InputError(f"items.*.layers: layer {number} does not exist; the model has layers 0 to {depth - 1}")
        result.setdefault(number, layer if isinstance(layer, str) else "")
    return result


def sums(prompt: OnePrompt, layer: int) -> pd.DataFrame:
    """Compute how the flow of a layer is divided between paths.

    A share is the sum of I_l over the edges of a path divided by the sum over all edges of the layer. The text of a
    demonstration consists of all tokens between the preceding label word (or the beginning of the prompt) and the
    demonstration's own label word, including the template. Edges that are not in the flow table count as ``rest``.

    Returns:
        One row per path, with the following columns. All shares are zero if the layer has no flow.

        * ``path``: one of

          * ``own_text``: from a demonstration's text to its label word
          * ``other_text``: from all tokens before that text to the label word
          * ``label_word``: from the label word to the last position
          * ``query``: from the tokens after the last label word to the last position
          * ``rest``: all other edges

        * ``demonstration``: index of the demonstration, from 0; -1 for ``query`` and ``rest``.
        * ``share``: share of the layer's flow.
    """
    edges = prompt.edges[prompt.edges["layer"] == layer]
    total = edges["layer_total"].iloc[0]
    rows = []

    def add(path: str, demonstration: int, chosen: pd.Series) -> None:
        value = edges.loc[chosen, "saliency"].sum()
        rows.append({"path": path, "demonstration": demonstration, "share": value / total if total > 0 else 0.0})

    to_last = edges["query"] == prompt.last
    start = 0
    for number, (first, stop) in enumerate(_runs(prompt.anchors)):
        into = edges["query"].between(first, stop, inclusive="left") & (edges["key"] < first)
        add("own_text", number, into & (edges["key"] >= start))
        add("other_text", number, into & (edges["key"] < start))
        add("label_word", number, to_last & edges["key"].between(first, stop, inclusive="left"))
        start = stop
    add("query", -1, to_last & (edges["key"] >= start))
    rest = max(0.0, 1 - sum(row["share"] for row in rows)) if total > 0 else 0.0
    return pd.DataFrame([*rows, {"path": "rest", "demonstration": -1, "share": rest}])
