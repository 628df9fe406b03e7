"""Which tasks a figure or table cannot show, determined before any job runs.

A task can have too few texts or prompts, or a study of the item may not support the options about label words (``labels``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from icl_lens.config.keys import Config
from icl_lens.prompts.sets import DEMONSTRATIONS
from icl_lens.studies import registry

Counts = Mapping[str, Sequence[int]]
"""Split -> number of texts of each class, see :mod:`icl_lens.corpora.counts`."""


def of_item(config: Config, item: str, task: str, counts: Counts | None) -> str:
    """Return why an item cannot show a task: one sentence, or an empty string if it can or the number of texts is unknown.

    Args:
        config: The config.
        item: The figure or table.
        task: The task.
        counts: The number of texts of the task; None if it is unknown.
    """
    about = registry.items()[item]
    if about.own_tasks:
        return ""
    for name in about.studies:
        if unsupported := registry.study(name).unsupported_labels(config.labels.options):
            return f"task {task}: {unsupported}"
    sets = dict.fromkeys([about.set] if about.studies else [])
    keys = {}
    for name in about.studies:
        study = registry.study(name)
        settings = config.settings(name, task)
        for further in study.further:
            set_name = further.set_name(settings)
            sets[set_name] = None
            if study.settings and callable(further.set):
                keys.setdefault(set_name, f"studies.{study.settings.name}")
            elif set_name.endswith("-auxiliary"):
                keys.setdefault(set_name, "studies.reweighting.auxiliary")
        if study.shortage:
            prompts = config.queries if counts is None else min(config.queries, sum(counts["test"]))
            if fault := study.shortage(settings, len(config.seeds), prompts):
                return f"task {task}: {fault}"
    faults = (of_set(config, set_name, task, counts, item, keys.get(set_name, "")) for set_name in sets)
    return next((fault for fault in faults if fault), "")


def of_set(config: Config, set_name: str, task: str, counts: Counts | None, item: str = "", key: str = "") -> str:
    """Return why a prompt set of a task cannot be built: one sentence, or an empty string if the texts suffice.

    Args:
        config: The config.
        set_name: The prompt set.
        task: The task.
        counts: The number of texts of the task; None if it is unknown.
        item: The item that needs the set, which the sentence names in a key to change.
        key: A further key to change, such as ``studies.reweighting``.
    """
    auxiliary = config.studies.reweighting.auxiliary if set_name.endswith("-auxiliary") else 0
    # No set needs more texts per class than this sum. The exact number is in a module that imports pandas.
    most = sum(map(int, re.findall(r"\d+", set_name))) + DEMONSTRATIONS + auxiliary
    if counts is None or min(counts["train"]) >= most:
        return ""
    from icl_lens.prompts.protocol import Protocol

    words = config.task(task).label_words
    required = Protocol.of(set_name).shots_per_class(len(words)) + auxiliary
    label, available = min(enumerate(counts["train"]), key=lambda pair: pair[1])
    if available >= required:
        return ""
    found = f"class {label} ({words[label].strip()}) has {available} training text{'' if available == 1 else 's'}"
    own = config.own_tasks.get(config.text_source(task))
    remedies = [
        f"add texts to {own.train} (own_tasks.{config.text_source(task)}.train)" if own else "add texts",
        *([f"change {key}"] if key else []),
    ]
    if item and len(config.shown(item)[1]) > 1:
        remedies.append(f"set items.{item}.tasks without it")
    if len(config.tasks) > 1:
        remedies.append(f"remove {task} from tasks")
    return f"task {task}: {found}, but the prompts {set_name} need {required} per class; {' or '.join(remedies)}"


def summary(left_out: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Return one sentence per task and reason for the items that do not show the task, and these items.

    Args:
        left_out: Item -> task -> the sentence of :func:`of_item`.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for item, tasks in left_out.items():
        for task, sentence in tasks.items():
            reason = sentence.removeprefix(f"task {task}: ").replace(f"items.{item}.tasks", "items.ITEM.tasks")
            found.setdefault((task, reason), []).append(item)
    return [(f"task {task} is left out of {', '.join(items)}: {reason}", items) for (task, reason), items in found.items()]
