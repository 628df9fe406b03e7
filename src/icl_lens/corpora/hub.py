"""The four data sets as the hub keeps them: where each lies, which columns count, and what must be found there.

TREC and EmoContext are kept there as loading scripts, which no current library runs; the hub's own Parquet copies of them are
read instead. Commits are named where public repositories agree on one; a branch is resolved, and its commit recorded, when it
is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from icl_lens.artifacts.hashes import file_hash
from icl_lens.corpora import columns
from icl_lens.corpora.columns import Columns
from icl_lens.corpora.published import COUNTS
from icl_lens.errors import InputError
from icl_lens.hub import fetched
from icl_lens.tasks.own import OwnTask
from icl_lens.tasks.task import TASKS, Task

# The branch on which the hub keeps a Parquet copy of every data set.
PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class HubDataset:
    """One data set on the hub.

    Attributes:
        hub: owner/name.
        revision: A commit or branch.
        config: Its configuration.
        train: The split that demonstrations are drawn from.
        test: The split whose texts are the queries.
        text: The columns of the text.
        label: The column of the label.
    """

    hub: str
    revision: str
    config: str
    train: str
    test: str
    text: tuple[str, ...]
    label: str

    @property
    def splits(self) -> dict[str, str]:
        """``train`` and ``test`` -> the data set's own names for them."""
        return {"train": self.train, "test": self.test}

    def at(self, revision: str) -> HubDataset:
        """The same at another commit or branch."""
        return replace(self, revision=revision)


DATASETS: dict[str, HubDataset] = {
    "sst2": HubDataset(
        hub="nyu-mll/glue",
        revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        config="sst2",
        train="train",
        test="validation",
        text=("sentence",),
        label="label",
    ),
    "trec": HubDataset("CogComp/trec", PARQUET, "default", "train", "test", text=("text",), label="coarse_label"),
    "agnews": HubDataset(
        hub="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        config="default",
        train="train",
        test="test",
        text=("text",),
        label="label",
    ),
    "emoc": HubDataset("SemEvalWorkshop/emo", PARQUET, "emo2019", "train", "test", text=("text",), label="label"),
}


def of_own_task(own: OwnTask) -> HubDataset:
    """The data set that a task of the user's own names.

    Raises:
        ValueError: It names none.
    """
    if own.hub is None:
        raise ValueError("the task names no data set on the hub")
    return HubDataset(own.hub, own.revision, own.config, own.train, own.test, tuple(own.text), own.label)


def read(task: Task, dataset: HubDataset, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The corpora table of one task from a fetched data set, and what identifies that.

    Args:
        task: Its classes are the labels' names.
        dataset: Its columns and its names for the two splits.
        folder: What :mod:`icl_lens.hub.fetch` filled.

    Raises:
        InputError: Nothing was fetched there, a file is not what was fetched, the classes are not the task's, or a split of one
            of the paper's tasks has not the published number of texts.
    """
    record = fetched.read(folder)
    if record is None or record.splits is None:
        raise InputError(f"{folder} holds no data set fetched from the hub; `icl-lens fetch-dataset` fetches one")
    absent = [name for name in dataset.splits.values() if name not in record.splits]
    if absent:
        raise InputError(
            f"{folder}: no split {absent[0]!r} of {record.hub} was fetched; delete {fetched.RECORD} to fetch again"
        )
    splits = {split: [folder / file for file in record.splits[name]] for split, name in dataset.splits.items()}
    for file in (file for name in dataset.splits.values() for file in record.splits[name]):
        if file_hash(folder / file) != record.files[file]["sha256"]:
            raise InputError(
                f"{folder / file} is not what was fetched; delete it and {folder / fetched.RECORD} to fetch it again"
            )
    table = columns.read(task.name, Columns(dataset.text, dataset.label, task.classes), splits)
    _require_counts(task, dataset, table)
    return table, {"hub": record.hub, "commit": record.commit, "config": record.config}


def _require_counts(task: Task, dataset: HubDataset, table: pd.DataFrame) -> None:
    """A task of the paper has the texts that the paper had."""
    if TASKS.get(task.name) != task:
        return  # the user's own: nothing is published of it
    for split, published in COUNTS[task.name].items():
        labels = table.loc[table["split"] == split, "label"]
        found = [int((labels == number).sum()) for number in range(len(task.classes))]
        for name, count, expected in zip(task.classes, found, published, strict=True):
            if count != expected:
                raise InputError(
                    f"{dataset.hub} ({dataset.config}, {dataset.splits[split]}) has {count} texts of class {name}, but "
                    f"{expected} are published, so it is not the paper's data set; name another revision under "
                    f"data.revisions.{task.name}"
                )
