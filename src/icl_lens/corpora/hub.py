"""The four data sets on the Hub: repositories, columns, and the expected number of texts of each class.

The repositories of TREC and EmoContext contain loading scripts, which current libraries do not run, so the Hub's Parquet copies
are used instead. A data set has a fixed commit if public repositories agree on one. Otherwise it has a branch; the download
resolves the branch and records the commit.
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

# The branch with the Hub's Parquet copy of a data set.
PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hub.

    Attributes:
        hub: Repository, ``owner/name``.
        revision: Commit or branch.
        config: Name of the configuration.
        train: Name of the split that provides the demonstrations.
        test: Name of the split that provides the queries.
        text: Names of the text columns.
        label: Name of the label column.
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
        """``train`` and ``test`` -> the name of the split in the data set."""
        return {"train": self.train, "test": self.test}

    def at(self, revision: str) -> HubDataset:
        """Return the same data set at another commit or branch."""
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


def own_task_dataset(definition: OwnTask) -> HubDataset:
    """Return the Hub data set of a user-defined task.

    Raises:
        ValueError: The task has no Hub data set.
    """
    if definition.hub is None:
        raise ValueError("the task has no data set on the Hub; set hub")
    return HubDataset(
        definition.hub,
        definition.revision,
        definition.config,
        definition.train,
        definition.test,
        tuple(definition.text),
        definition.label,
    )


def read(task: Task, dataset: HubDataset, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the corpora table of one task, read from a fetched data set, and the identity of the data set.

    Args:
        task: The task; its classes are the names of the labels.
        dataset: The data set, which defines the columns and the names of the two splits.
        folder: The folder that :mod:`icl_lens.hub.fetch` downloaded the data set to.

    Returns:
        The corpora table, and a dict with the hub, commit and config of the data set.

    Raises:
        InputError: The folder contains no fetched data set; a file differs from the fetched one; the classes differ from those
            of the task; or, for one of the paper's tasks, the number of texts of a class differs from the published number.
    """
    record = fetched.read(folder)
    if record is None or record.splits is None:
        raise InputError(f"{folder} contains no data set fetched from the Hub; run `icl-lens fetch-dataset` to fetch one")
    missing = [name for name in dataset.splits.values() if name not in record.splits]
    if missing:
        raise InputError(
            f"{folder}: split {missing[0]!r} of {record.hub} was not fetched; delete {fetched.RECORD} and fetch it again"
        )
    splits = {split: [folder / file for file in record.splits[name]] for split, name in dataset.splits.items()}
    for file in (file for name in dataset.splits.values() for file in record.splits[name]):
        if file_hash(folder / file) != record.files[file]["sha256"]:
            raise InputError(
                f"{folder / file} differs from the fetched file; delete it and {folder / fetched.RECORD}, and fetch it again"
            )
    table = columns.read(task.name, Columns(dataset.text, dataset.label, task.classes), splits)
    _require_counts(task, dataset, table)
    return table, {"hub": record.hub, "commit": record.commit, "config": record.config}


def _require_counts(task: Task, dataset: HubDataset, table: pd.DataFrame) -> None:
    """Require the published number of texts of each class, for a task of the paper.

    Raises:
        InputError: The number of texts of a class differs from the published number.
    """
    if TASKS.get(task.name) != task:
        return  # a user-defined task has no published counts
    for split, published in COUNTS[task.name].items():
        labels = table.loc[table["split"] == split, "label"]
        found = [int((labels == number).sum()) for number in range(len(task.classes))]
        for name, count, expected in zip(task.classes, found, published, strict=True):
            if count != expected:
                raise InputError(
                    f"{dataset.hub} ({dataset.config}, {dataset.splits[split]}) has {count} texts of class {name}, but the "
                    f"paper's data set has {expected}; set another revision under data.revisions.{task.name}"
                )
