"""Prompts: which texts are drawn (the authors' protocol, draw for draw), and how they are written, with every span.

A prompt is its demonstrations and its query, each written by the task's template, joined by one newline; the query has no label
and nothing follows its last colon (*Label Words are Anchors*, Table 4). A prompts table says all that a study needs, so prompts
made elsewhere can be studied too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from icl_lens.artifacts import hashes, parquet, provenance
from icl_lens.corpora.schema import CORPORA
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.prompts.sets import AUXILIARY, DEMONSTRATIONS, per_class
from icl_lens.tasks.task import Task

POOL = 64
"""Demonstration sets in the pool of ``pooled-1shot`` and ``ordered-1shot``, as in the released ``Error_analysis.ipynb``."""


@dataclass(frozen=True)
class Protocol:
    """How a prompt set is drawn.

    Attributes:
        kind: ``fresh``, new demonstrations for each query; ``shared``, one set of demonstrations per seed for all queries;
            ``pooled``, the sets of a pool per seed in turn; ``ordered``, the first set of that pool for all queries. The
            demonstrations of a pool stand in the order of the classes.
        shots: Demonstrations per class.
        auxiliary: Whether the queries are further training texts, those that the draw of the demonstrations meets next, and not
            test texts: what anchor re-weighting trains on.
        labelled: Of a set named ``labelled-24``: a shared set of :func:`per_class` demonstrations per class, to which so many
            labelled texts (equally many of each class, or more) come besides; ``shots`` is then 0. Components are re-weighted
            on it.
    """

    kind: Literal["fresh", "shared", "pooled", "ordered"]
    shots: int
    auxiliary: bool = False
    labelled: int = 0

    @classmethod
    def of(cls, set_name: str) -> Protocol:
        """The protocol that a set's name states: ``fresh-1shot``, ``shared-1shot-auxiliary``, ``pooled-1shot``, ...

        Raises:
            InputError: The name states none.
        """
        labelled = re.fullmatch(r"labelled-([1-9][0-9]*)", set_name)
        if labelled:
            return cls(kind="shared", shots=0, labelled=int(labelled[1]))
        match = re.fullmatch(r"(fresh|shared)-([1-9][0-9]*)shot(-auxiliary)?|(pooled|ordered)-(1)shot", set_name)
        if not match or (match[1] == "fresh" and match[3]):
            raise InputError(
                f"{set_name!r} is no prompt set; a set is named like fresh-1shot or shared-5shot, or is pooled-1shot or "
                "ordered-1shot"
            )
        return cls(kind=match[1] or match[4], shots=int(match[2] or match[5]), auxiliary=bool(match[3]))

    def shots_of(self, classes: int) -> int:
        """Demonstrations per class of a task with so many classes."""
        if not self.labelled:
            return self.shots
        return per_class(DEMONSTRATIONS, classes) + -(-self.labelled // classes)

    @property
    def fresh(self) -> bool:
        """Whether demonstrations change from query to query."""
        return self.kind in ("fresh", "pooled")

    @property
    def pool(self) -> bool:
        """Whether demonstrations come from a pool, see :func:`draw_pool`."""
        return self.kind in ("pooled", "ordered")


def draw_queries(test_size: int, queries: int, seed: int) -> list[int]:
    """Indices of a seed's test texts, in order: the first ``queries`` of the permutation that ``datasets`` draws.

    The released code takes ``dataset['test'].shuffle(seed=seed).select(range(min(1000, n)))``, which is a permutation by
    numpy's default generator; fewer queries are the first of the same ones.
    """
    return np.random.default_rng(seed).permutation(test_size)[:queries].tolist()


def draw_fresh(labels: np.ndarray, classes: int, shots: int, queries: int, seed: int) -> list[list[int]]:
    """Demonstrations drawn anew for each query, as the released ``attention_attr.py`` draws them for section 2.1.

    One legacy numpy generator per seed; query by query, class by class, ``shots`` training texts *with* replacement; then a
    shuffle with the same seed each time, so that the order of the classes is the same in all prompts of a seed.

    Args:
        labels: Class index of each training text, shape (N,).

    Returns:
        For each query, the indices of its demonstrations in prompt order.
    """
    generator = np.random.RandomState(seed)
    pools = [np.flatnonzero(labels == c) for c in range(classes)]
    order = np.random.default_rng(seed).permutation(classes * shots)
    drawn = []
    for _ in range(queries):
        by_class = np.concatenate([generator.choice(pool, shots) for pool in pools])  # (classes * shots,)
        drawn.append(by_class[order].tolist())
    return drawn


def draw_shared(labels: np.ndarray, classes: int, shots: int, seed: int) -> list[int]:
    """One set of demonstrations per seed, as the released ``sample_two_set_with_shot_per_class`` draws it.

    All training indices are shuffled by a legacy numpy generator; the first ``shots`` of each class are the set, in the order
    in which they are met.

    Args:
        labels: Class index of each training text, shape (N,).

    Returns:
        The indices of the demonstrations in prompt order.
    """
    indices = list(range(len(labels)))
    np.random.RandomState(seed).shuffle(indices)
    met = [0] * classes
    drawn = []
    for index in indices:
        label = labels[index]
        met[label] += 1
        if met[label] <= shots:
            drawn.append(index)
    return drawn


def draw_pool(labels: np.ndarray, classes: int, seed: int) -> list[list[int]]:
    """A pool of demonstration sets per seed, one text a class in the order of the classes, as ``Error_analysis.ipynb`` has it.

    The texts are those of :func:`draw_shared` with :data:`POOL` shots; set k holds the k-th of each class. Where a class has
    fewer texts, there are only so many sets.

    Args:
        labels: Class index of each training text, shape (N,).

    Returns:
        For each set, the indices of its demonstrations in prompt order.
    """
    drawn = draw_shared(labels, classes, POOL, seed)
    by_class = [[index for index in drawn if labels[index] == c] for c in range(classes)]
    return [list(texts) for texts in zip(*by_class, strict=False)]


def draw_auxiliary(labels: np.ndarray, classes: int, shots: int, auxiliary: int, seed: int) -> list[int]:
    """The second set that ``sample_two_set_with_shot_per_class`` draws: the next ``auxiliary`` of each class, as they are met.

    With the demonstrations of :func:`draw_shared` they are those of ``shots + auxiliary`` per class.
    """
    demonstrations = set(draw_shared(labels, classes, shots, seed))
    return [index for index in draw_shared(labels, classes, shots + auxiliary, seed) if index not in demonstrations]


def build(
    task: Task, corpus: pd.DataFrame, set_name: str, seeds: list[int], queries: int, auxiliary: int = AUXILIARY
) -> pd.DataFrame:
    """The prompts table of one task and prompt set, over all seeds.

    Args:
        task: The task whose template and label words are used.
        corpus: A corpora table: split, index, text, label.
        set_name: Names the protocol, see :class:`Protocol`.
        seeds: One run each; rows come in this order, and within a seed in the order of the draw.
        queries: Test texts per seed, at most.
        auxiliary: In an auxiliary set, further training texts per class, which are its queries.

    Raises:
        InputError: A split is empty, a class is missing, or there are too few training texts for the shots asked.
    """
    protocol = Protocol.of(set_name)
    splits = {name: part.set_index("index").sort_index() for name, part in corpus.groupby("split")}
    for split in ("train", "test"):
        if split not in splits:
            raise InputError(f"task {task.name}: the corpus has no {split} texts")
    train, test = splits["train"], splits["test"]
    classes = len(task.label_words)
    for part in (train, test):
        if not part["label"].between(0, classes - 1).all():
            raise InputError(f"task {task.name}: the corpus has a label outside 0 to {classes - 1}")
    shots = protocol.shots_of(classes)
    _enough(task, train, shots, auxiliary if protocol.auxiliary else 0)
    labels = train["label"].to_numpy()

    rows = []
    for seed in seeds:
        source = train if protocol.auxiliary else test
        if protocol.auxiliary:
            chosen = draw_auxiliary(labels, classes, shots, auxiliary, seed)
        else:
            chosen = draw_queries(len(test), queries, seed)
        if protocol.pool:
            sets = draw_pool(labels, classes, seed)
            sets = sets[: 1 if protocol.kind == "ordered" else None]
            drawn = [sets[number % len(sets)] for number in range(len(chosen))]
        elif protocol.fresh:
            drawn = draw_fresh(labels, classes, shots, len(chosen), seed)
        else:
            drawn = [draw_shared(labels, classes, shots, seed)] * len(chosen)
        for position, demonstrations in zip(chosen, drawn, strict=True):
            demos = train.iloc[demonstrations]
            query = source.iloc[position]
            rows.append(
                {
                    "task": task.name,
                    "set": set_name,
                    "seed": seed,
                    "prompt_id": len(rows),
                    "shots": shots,
                    "query_index": int(source.index[position]),
                    "demo_indices": demos.index.tolist(),
                    "gold": int(query["label"]),
                    "label_words": list(task.label_words),
                    "demo_labels": demos["label"].tolist(),
                    **write_prompt(task, demos["text"].tolist(), demos["label"].tolist(), query["text"]),
                }
            )
    return pd.DataFrame(rows)


def write_prompt(task: Task, texts: list[str], labels: list[int], query: str) -> dict:
    """One prompt and where its parts are.

    Args:
        task: Gives the template and the label words.
        texts: The demonstrations' texts, in prompt order.
        labels: Their class indices.
        query: The query's text.

    Returns:
        ``text`` and, as [start, end) characters of it, ``label_spans`` (leading blank included) and ``text_spans`` (one per
        demonstration), ``query_span``, and ``prefix_spans`` (each template piece, such as "Review:" and "Sentiment:").
    """
    text = ""
    spans: dict[str, list[list[int]]] = {"text": [], "label": [], "prefix": []}
    examples = [*zip(texts, (task.label_words[label] for label in labels), strict=True), (query, "")]
    for number, (example, word) in enumerate(examples):
        text += "\n" if number else ""
        for kind, piece in _pieces(task.template, example, word):
            start = len(text)
            text += piece
            if kind == "prefix":
                # The piece as a reader sees it: the blanks around it belong to no span.
                start += len(piece) - len(piece.lstrip())
                spans[kind].append([start, start + len(piece.strip())])
            elif number < len(texts) or kind == "text":
                spans[kind].append([start, start + len(piece)])
    return {
        "text": text,
        "label_spans": spans["label"],
        "text_spans": spans["text"][:-1],
        "query_span": spans["text"][-1],
        "prefix_spans": spans["prefix"],
    }


def _pieces(template: str, text: str, label: str) -> Iterator[tuple[str, str]]:
    """A filled template piece by piece, as (kind, characters); a text that holds a brace is left as it is."""
    for piece in re.split(r"(\{text\}|\{label\})", template):
        if piece == "{text}":
            yield "text", text
        elif piece == "{label}":
            yield "label", label
        elif piece:
            yield "prefix", piece


def _enough(task: Task, train: pd.DataFrame, shots: int, auxiliary: int) -> None:
    counts = train["label"].value_counts()
    further = f" and {auxiliary} further examples" if auxiliary else ""
    for label, word in enumerate(task.label_words):
        if counts.get(label, 0) < shots + auxiliary:
            raise InputError(
                f"task {task.name}: {shots} demonstrations{further} per class are asked for, but the training split has "
                f"{counts.get(label, 0)} texts of class {label} ({word.strip()})"
            )


def pool_sets(task: Task, corpus: pd.DataFrame) -> int:
    """How many demonstration sets a pool has: :data:`POOL`, or as many as the rarest class has training texts."""
    counts = corpus.loc[corpus["split"] == "train", "label"].value_counts().reindex(range(len(task.label_words)), fill_value=0)
    return min(POOL, int(counts.min()))


def with_fewer_shots(table: pd.DataFrame, shots: int) -> pd.DataFrame:
    """A prompts table with only the first ``shots`` demonstrations of each class, in their order.

    Of a shared set that is the set with so many shots, but for its name, for the draw of more demonstrations begins alike.

    Args:
        table: A prompts table; every demonstration of a prompt begins with a template's piece, as :func:`write_prompt` has it.
        shots: At least one, at most what the table has.
    """
    return pd.DataFrame([_with_fewer_shots(row, shots) for row in table.to_dict("records")])


def _with_fewer_shots(row: dict, shots: int) -> dict:
    labels = list(row["demo_labels"])
    count = len(labels)
    pieces = len(row["prefix_spans"]) // (count + 1)
    starts = [min(row["prefix_spans"][d * pieces][0], _span_start(row, d)) for d in range(count + 1)]
    kept = [d for d in range(count) if labels[:d].count(labels[d]) < shots]
    text, moved = "", {}
    for d in [*kept, count]:
        moved[d] = len(text) - starts[d]
        text += row["text"][starts[d] : starts[d + 1] if d < count else None]

    def spans(name: str, places: list[int], every: int = 1) -> list[list[int]]:
        return [
            [int(edge) + moved[d] for edge in span] for d in places for span in row[name][d * every : (d + 1) * every]
        ]  # fmt: skip

    return {
        **row,
        "shots": shots,
        "demo_indices": [int(row["demo_indices"][d]) for d in kept],
        "demo_labels": [int(labels[d]) for d in kept],
        "text": text,
        "label_spans": spans("label_spans", kept),
        "text_spans": spans("text_spans", kept),
        "query_span": [int(edge) + moved[count] for edge in row["query_span"]],
        "prefix_spans": spans("prefix_spans", [*kept, count], pieces),
    }


def _span_start(row: dict, example: int) -> int:
    """Where an example's text begins, the query's after the last demonstration's."""
    return (row["text_spans"][example] if example < len(row["demo_labels"]) else row["query_span"])[0]


def write(
    task: Task, corpus: Path, set_name: str, seeds: list[int], queries: int, out: Path, auxiliary: int = AUXILIARY
) -> None:
    """Build a prompts table from a corpora table and write it; see :func:`build` for the errors."""
    table, origin = parquet.read(corpus, CORPORA)
    prompts = build(task, table, set_name, seeds, queries, auxiliary)
    protocol = Protocol.of(set_name)
    # A class with few texts makes the pool smaller: a reader must be able to tell.
    pool = {"pool": pool_sets(task, table)} if protocol.pool else {}
    metadata = provenance.describe(
        PROMPTS,
        [__name__],
        inputs={hashes.artifact_name(corpus, out): hashes.file_hash(corpus)},
        # An auxiliary set's queries are no test texts: how many of those there are decides nothing.
        settings={"set": set_name, **({"auxiliary": auxiliary} if protocol.auxiliary else {"queries": queries}), **pool},
        seeds=seeds,
        task={"name": task.name, "title": task.title, "template": task.template, "label_words": list(task.label_words)},
        corpus=origin.get("corpus", {"source": "elsewhere"}),
    )
    parquet.write(out, prompts, PROMPTS, metadata)
