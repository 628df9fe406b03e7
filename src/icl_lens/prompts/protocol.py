"""Construction of prompts: the sampling of texts, which exactly reproduces the authors' protocol, and the text with all spans.

A prompt consists of the demonstrations and the query, each formatted with the task's template and joined by one newline. The
query has no label, and its last colon ends the prompt (*Label Words are Anchors*, Table 4). A prompts table contains all
information that a study needs, so studies can also use prompts from other sources.
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
from icl_lens.prompts.demonstrations import keep_shots
from icl_lens.prompts.schema import PROMPTS
from icl_lens.prompts.sets import AUXILIARY, DEMONSTRATIONS, ZERO_SHOT, per_class
from icl_lens.tasks.task import Task

POOL = 64
"""Number of demonstration sets in a pool (``pooled-1shot``, ``ordered-1shot``), as in the released ``Error_analysis.ipynb``."""


@dataclass(frozen=True)
class Protocol:
    """Sampling protocol of a prompt set.

    Attributes:
        kind: ``fresh``, new demonstrations for each query; ``shared``, one set of demonstrations per seed for all queries;
            ``pooled``, the sets of one pool per seed in turn; ``ordered``, the first set of this pool for all queries. The
            demonstrations from a pool are in the order of the classes.
        shots: The number of demonstrations per class; 0 for prompts that consist of the query (``shared-0shot``).
        auxiliary: Whether the queries are additional training texts instead of test texts. They are the next training texts
            after the demonstrations in the same draw. Anchor re-weighting is trained on such a set.
        labelled: The number of additional labelled texts in a set such as ``labelled-24``, rounded up to a multiple of the
            number of classes; 0 for other sets. Such a set is a shared set with :func:`per_class` demonstrations per class, and
            its ``shots`` is 0. Components are re-weighted on it.
    """

    kind: Literal["fresh", "shared", "pooled", "ordered"]
    shots: int
    auxiliary: bool = False
    labelled: int = 0

    @classmethod
    def of(cls, set_name: str) -> Protocol:
        """Parse the name of a prompt set, such as ``fresh-1shot``, ``shared-1shot-auxiliary`` or ``pooled-1shot``.

        Raises:
            InputError: The name is not that of a prompt set.
        """
        labelled = re.fullmatch(r"labelled-([1-9][0-9]*)", set_name)
        if labelled:
            return cls(kind="shared", shots=0, labelled=int(labelled[1]))
        if set_name == ZERO_SHOT:
            return cls(kind="shared", shots=0)
        match = re.fullmatch(r"(fresh|shared)-([1-9][0-9]*)shot(-auxiliary)?|(pooled|ordered)-(1)shot", set_name)
        if not match or (match[1] == "fresh" and match[3]):
            raise InputError(
                f"{set_name!r} is not a prompt set; use a name such as fresh-1shot, shared-5shot, {ZERO_SHOT}, "
                "shared-1shot-auxiliary, pooled-1shot, ordered-1shot or labelled-24"
            )
        return cls(kind=match[1] or match[4], shots=int(match[2] or match[5]), auxiliary=bool(match[3]))

    def shots_per_class(self, classes: int) -> int:
        """Return the number of demonstrations per class for a task with the given number of classes."""
        if not self.labelled:
            return self.shots
        return per_class(DEMONSTRATIONS, classes) + -(-self.labelled // classes)

    @property
    def fresh(self) -> bool:
        """Whether the demonstrations differ between queries."""
        return self.kind in ("fresh", "pooled")

    @property
    def pool(self) -> bool:
        """Whether the demonstrations are drawn from a pool, see :func:`draw_pool`."""
        return self.kind in ("pooled", "ordered")


def draw_queries(test_size: int, queries: int, seed: int) -> list[int]:
    """Draw the indices of the test texts for a seed, in order: the first ``queries`` of the permutation used by ``datasets``.

    The released code uses ``dataset['test'].shuffle(seed=seed).select(range(min(1000, n)))``, which is a permutation by numpy's
    default generator. A smaller number of queries gives the first ones of the same permutation.
    """
    return np.random.default_rng(seed).permutation(test_size)[:queries].tolist()


def draw_fresh(labels: np.ndarray, classes: int, shots: int, queries: int, seed: int) -> list[list[int]]:
    """Draw new demonstrations for each query, as in the released ``attention_attr.py`` for section 2.1.

    A legacy numpy generator, one per seed, draws ``shots`` training texts *with* replacement for each class of each query. The
    demonstrations of each query are then shuffled with the same seed, so that the order of the classes is the same in all
    prompts of a seed.

    Args:
        labels: Class index of each training text, shape (N,).
        classes: The number of classes.
        shots: The number of demonstrations per class.
        queries: The number of queries.
        seed: The seed.

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
    """Draw one set of demonstrations per seed, as in the released ``sample_two_set_with_shot_per_class``.

    A legacy numpy generator shuffles the indices of all training texts. The set consists of the first ``shots`` texts of each
    class, in shuffled order.

    Args:
        labels: Class index of each training text, shape (N,).
        classes: The number of classes.
        shots: The number of demonstrations per class.
        seed: The seed.

    Returns:
        The indices of the demonstrations in prompt order.
    """
    indices = list(range(len(labels)))
    np.random.RandomState(seed).shuffle(indices)
    drawn_per_class = [0] * classes
    drawn = []
    for index in indices:
        label = labels[index]
        drawn_per_class[label] += 1
        if drawn_per_class[label] <= shots:
            drawn.append(index)
    return drawn


def draw_pool(labels: np.ndarray, classes: int, seed: int) -> list[list[int]]:
    """Draw a pool of demonstration sets per seed, as in the released ``Error_analysis.ipynb``.

    Each set has one text per class, in the order of the classes. The texts are those of :func:`draw_shared` with :data:`POOL`
    shots. Set k contains the k-th text of each class. If a class has fewer texts, the number of sets is limited to this number.

    Args:
        labels: Class index of each training text, shape (N,).
        classes: The number of classes.
        seed: The seed.

    Returns:
        For each set, the indices of its demonstrations in prompt order.
    """
    drawn = draw_shared(labels, classes, POOL, seed)
    by_class = [[index for index in drawn if labels[index] == c] for c in range(classes)]
    return [list(texts) for texts in zip(*by_class, strict=False)]


def draw_auxiliary(labels: np.ndarray, classes: int, shots: int, auxiliary: int, seed: int) -> list[int]:
    """Draw the second set of ``sample_two_set_with_shot_per_class``: the next ``auxiliary`` texts of each class, in order.

    Together with the demonstrations of :func:`draw_shared`, they are the result of :func:`draw_shared` with
    ``shots + auxiliary`` texts per class.
    """
    demonstrations = set(draw_shared(labels, classes, shots, seed))
    return [index for index in draw_shared(labels, classes, shots + auxiliary, seed) if index not in demonstrations]


def build(
    task: Task, corpus: pd.DataFrame, set_name: str, seeds: list[int], queries: int, auxiliary: int = AUXILIARY
) -> pd.DataFrame:
    """Build the prompts table of one task and prompt set, for all seeds.

    Args:
        task: The task, with template and label words.
        corpus: A corpora table with the columns split, index, text and label.
        set_name: The name of the prompt set, which determines the protocol, see :class:`Protocol`.
        seeds: One run per seed. The rows are in the order of the seeds, and for each seed in the order of the draw.
        queries: The maximum number of test texts per seed.
        auxiliary: In an auxiliary set, the number of additional training texts per class, which are the queries.

    Raises:
        InputError: A split is empty, a label is outside the classes, or a class has too few training texts.
    """
    protocol = Protocol.of(set_name)
    splits = {name: part.set_index("index").sort_index() for name, part in corpus.groupby("split")}
    for split in ("train", "test"):
        if split not in splits:
            raise InputError(f"task {task.name}: the {split} split of the corpus is empty")
    train, test = splits["train"], splits["test"]
    classes = len(task.label_words)
    for part in (train, test):
        if not part["label"].between(0, classes - 1).all():
            raise InputError(f"task {task.name}: the labels of the corpus must be from 0 to {classes - 1}")
    shots = protocol.shots_per_class(classes)
    _require_texts(task, train, shots, auxiliary if protocol.auxiliary else 0)
    labels = train["label"].to_numpy()

    rows = []
    for seed in seeds:
        source = train if protocol.auxiliary else test
        if protocol.auxiliary:
            query_positions = draw_auxiliary(labels, classes, shots, auxiliary, seed)
        else:
            query_positions = draw_queries(len(test), queries, seed)
        if protocol.pool:
            sets = draw_pool(labels, classes, seed)
            sets = sets[: 1 if protocol.kind == "ordered" else None]
            drawn = [sets[number % len(sets)] for number in range(len(query_positions))]
        elif protocol.fresh:
            drawn = draw_fresh(labels, classes, shots, len(query_positions), seed)
        else:
            drawn = [draw_shared(labels, classes, shots, seed)] * len(query_positions)
        for position, demonstrations in zip(query_positions, drawn, strict=True):
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
    """Write one prompt and compute the spans of its parts.

    Args:
        task: The task, with template and label words.
        texts: The texts of the demonstrations, in prompt order.
        labels: The class indices of the demonstrations.
        query: The text of the query.

    Returns:
        ``text`` and its spans as [start, end) characters: ``label_spans`` (including the leading space) and ``text_spans``, one
        per demonstration; ``query_span``; and ``prefix_spans``, one per template piece, such as "Review:" and "Sentiment:".
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
                # Whitespace around a template piece belongs to no span.
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
    """Yield the pieces of a filled template as (kind, characters). Unlike str.format, this accepts texts with braces."""
    for piece in re.split(r"(\{text\}|\{label\})", template):
        if piece == "{text}":
            yield "text", text
        elif piece == "{label}":
            yield "label", label
        elif piece:
            yield "prefix", piece


def _require_texts(task: Task, train: pd.DataFrame, shots: int, auxiliary: int) -> None:
    counts = train["label"].value_counts()
    further = f" and {auxiliary} further examples" if auxiliary else ""
    for label, word in enumerate(task.label_words):
        if counts.get(label, 0) < shots + auxiliary:
            raise InputError(
                f"task {task.name}: {shots} demonstrations{further} per class are required, but the training split has only "
                f"{counts.get(label, 0)} texts of class {label} ({word.strip()}); add texts, remove "
                "the task from tasks, or set items.*.tasks of the items that need these prompts without it"
            )


def pool_size(task: Task, corpus: pd.DataFrame) -> int:
    """Return the number of demonstration sets in a pool: :data:`POOL`, or the size of the smallest class if it is lower."""
    counts = corpus.loc[corpus["split"] == "train", "label"].value_counts().reindex(range(len(task.label_words)), fill_value=0)
    return min(POOL, int(counts.min()))


def with_fewer_shots(table: pd.DataFrame, shots: int) -> pd.DataFrame:
    """Return a prompts table with only the first ``shots`` demonstrations of each class, in the same order.

    For a shared set, the result equals the shared set with this number of shots except for its name, because a draw with more
    shots begins with the same texts of each class.

    Args:
        table: A prompts table in which each demonstration begins with a template piece, as in :func:`write_prompt`.
        shots: The number of demonstrations per class to keep, from 0 to the number in the table. With 0, only the query
            remains.
    """
    return pd.DataFrame([{**row, "shots": shots, **keep_shots(row, shots)} for row in table.to_dict("records")])


def write(
    task: Task, corpus: Path, set_name: str, seeds: list[int], queries: int, out: Path, auxiliary: int = AUXILIARY
) -> None:
    """Build a prompts table from a corpora table and write it to a file; see :func:`build` for the arguments and errors."""
    table, origin = parquet.read(corpus, CORPORA)
    prompts = build(task, table, set_name, seeds, queries, auxiliary)
    protocol = Protocol.of(set_name)
    # The pool is smaller if a class has few texts, so its size is recorded.
    pool = {"pool": pool_size(task, table)} if protocol.pool else {}
    metadata = provenance.describe(
        PROMPTS,
        [__name__],
        inputs={hashes.artifact_name(corpus, out): hashes.file_hash(corpus)},
        # The queries of an auxiliary set are training texts, so the number of test texts does not affect it.
        settings={"set": set_name, **({"auxiliary": auxiliary} if protocol.auxiliary else {"queries": queries}), **pool},
        seeds=seeds,
        task={"name": task.name, "title": task.title, "template": task.template, "label_words": list(task.label_words)},
        corpus=origin.get("corpus", {"source": "elsewhere"}),
    )
    parquet.write(out, prompts, PROMPTS, metadata)
