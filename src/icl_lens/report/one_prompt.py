"""One prompt and its information flow, read from artifacts: what Figures 1 and 2 of *Label Words are Anchors* draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from icl_lens.artifacts import parquet
from icl_lens.errors import InputError
from icl_lens.report.figures import escaped
from icl_lens.studies.anchors.flow.study import STUDY as FLOW
from icl_lens.studies.anchors.icl.study import STUDY as ICL
from icl_lens.studies.anchors.tokens.study import STUDY as TOKENS

# The names of layers, and where in the depth they are: the first layer that lies that far.
NAMED = {"shallow": 1 / 5, "deep": 4 / 5}


@dataclass(frozen=True)
class OnePrompt:
    """A prompt and what flows in it.

    Attributes:
        tokens: Its rows of the table of tokens, by position.
        edges: Its rows of the table of flow.
        answer: Its row of the table of answers.
        about: Metadata of the table of flow.
        label_words: The label word of each class, without its blank; the class's index where the table does not say.
    """

    tokens: pd.DataFrame
    edges: pd.DataFrame
    answer: pd.Series
    about: dict[str, Any]
    label_words: dict[int, str]

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(self.about["model"]["layers"])

    @property
    def anchors(self) -> list[int]:
        """Positions of the label words."""
        return self.tokens.loc[self.tokens["class"] >= 0, "position"].tolist()

    @property
    def last(self) -> int:
        """The position that predicts."""
        return int(self.tokens["position"].iloc[-1])

    @property
    def words(self) -> list[str]:
        """Each token as it can be written on one line, without the blanks around it."""
        return [escaped(token.strip(" ")) or "\u2423" for token in self.tokens["token"]]

    def text(self, start: int, end: int) -> str:
        """The text of positions [start, end), on one line."""
        tokens = self.tokens.iloc[start:end]
        blank = (tokens["start"] > tokens["end"].shift(fill_value=0)).map({True: " ", False: ""})
        return " ".join((blank + tokens["token"]).str.cat().split())

    def in_layer(self, layer: int) -> pd.DataFrame:
        """A layer's edges, weakest first, with ``relative`` (share of the layer's largest) and ``kind``.

        A kind is ``wp`` (into a label word), ``pq`` (from a label word to the position that predicts) or ``ww`` (eq. 2 to 4).
        """
        edges = self.edges[self.edges["layer"] == layer].copy()
        largest = edges["saliency"].max()
        edges["relative"] = edges["saliency"] / largest if largest > 0 else 0.0
        edges["kind"] = "ww"
        edges.loc[edges["query"].isin(self.anchors), "kind"] = "wp"
        edges.loc[(edges["query"] == self.last) & edges["key"].isin(self.anchors), "kind"] = "pq"
        return edges.sort_values(["saliency", "query", "key"], ignore_index=True)

    def left_out(self, layer: int) -> float:
        """The share of a layer's flow that is along edges which the table leaves out."""
        edges = self.edges[self.edges["layer"] == layer]
        total = edges["layer_total"].iloc[0]
        return max(0.0, 1 - edges["saliency"].sum() / total) if total > 0 else 0.0


def read(folder: Path | str, prompt: int | None = None) -> OnePrompt:
    """A prompt of the studies in a folder.

    Args:
        folder: Holds flow.parquet, tokens.parquet and icl.parquet of one model and prompt set.
        prompt: Its prompt_id; by default the first whose flow is there.

    Raises:
        InputError: A table cannot be read, or the flow of that prompt is not in it.
    """
    folder = Path(folder)
    edges, about = parquet.read(folder / "flow.parquet", FLOW.schema)
    found = edges["prompt_id"].unique().tolist()
    if prompt is not None and prompt not in found:
        raise InputError(
            f"{folder / 'flow.parquet'} holds the flow of prompt {', '.join(map(str, found))}, not of {prompt}; choose one of "
            "these (items.*.prompt), or have the study keep that one, too (studies.flow.also)"
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


def numbered(layers: Sequence[int | str], depth: int) -> dict[int, str]:
    """Layers counted from 0, each with its name (empty where it has none), in the order given, none twice.

    Args:
        layers: Numbers, or names of :data:`NAMED`.
        depth: How many layers the model has.

    Raises:
        InputError: The model has no such layer.
    """
    result: dict[int, str] = {}
    for layer in layers:
        number = int(NAMED[layer] * depth) if isinstance(layer, str) else layer
        if not 0 <= number < depth:
            raise InputError(f"layer {number} is to be drawn (items.*.layers), but the model has layers 0 to {depth - 1}")
        result.setdefault(number, layer if isinstance(layer, str) else "")
    return result


def sums(prompt: OnePrompt, layer: int) -> pd.DataFrame:
    """How a layer's flow is divided: sums of I_l over edges, as shares of the sum over all edges of the layer.

    The text of a demonstration is all that stands between the label word before it (or the beginning) and its own, template
    included. Edges that the table of flow leaves out count as ``rest``.

    Returns:
        One row a path: ``path`` (own_text: from a demonstration's text to its label word; other_text: from all that is before
        that text to the label word; label_word: from it to the position that predicts; query: from what stands behind the last
        label word to the position that predicts; rest: all other edges), ``demonstration`` (from 0; -1 for query and rest) and
        ``share``; all zero for a layer along which nothing flows.
    """
    edges = prompt.edges[prompt.edges["layer"] == layer]
    total = edges["layer_total"].iloc[0]
    rows = []

    def add(path: str, demonstration: int, chosen: pd.Series) -> None:
        value = edges.loc[chosen, "saliency"].sum()
        rows.append({"path": path, "demonstration": demonstration, "share": value / total if total > 0 else 0.0})

    to_last = edges["query"] == prompt.last
    start = 0
    for number, anchor in enumerate(prompt.anchors):
        into = edges["query"] == anchor
        add("own_text", number, into & (edges["key"] >= start))
        add("other_text", number, into & (edges["key"] < start))
        add("label_word", number, to_last & (edges["key"] == anchor))
        start = anchor + 1
    add("query", -1, to_last & (edges["key"] >= start))
    rest = max(0.0, 1 - sum(row["share"] for row in rows)) if total > 0 else 0.0
    return pd.DataFrame([*rows, {"path": "rest", "demonstration": -1, "share": rest}])
