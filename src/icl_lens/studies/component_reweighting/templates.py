"""Templates of a task, and functions that rewrite prompts with another template.

The templates of *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024) are not released; these are ours. As in the
paper, a task has three templates and one contrast template that differs minimally from one of them (a newline, a space).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from icl_lens.errors import InputError
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.component_reweighting.settings import CONTRAST, OWN, Wording
from icl_lens.tasks.task import Task

_NEUTRAL = "Input: {text}\nOutput:{label}"

WORDINGS: dict[str, Wording] = {
    "sst2": Wording(
        templates=["Text: {text}\nFeeling:{label}", _NEUTRAL],
        contrast="Review: {text}\n\nSentiment:{label}",
    ),
    "trec": Wording(
        templates=["Text: {text}\nAbout:{label}", _NEUTRAL],
        contrast="Question: {text} Answer Type:{label}",
    ),
    "agnews": Wording(
        templates=["News: {text}\nTopic:{label}", _NEUTRAL],
        contrast="Article: {text}\n\nAnswer:{label}",
    ),
    "emoc": Wording(
        templates=["Text: {text}\nFeeling:{label}", _NEUTRAL],
        contrast="Dialogue: {text} Emotion:{label}",
    ),
}


def of_task(task: str, own: str, given: Mapping[str, Wording]) -> dict[str, str]:
    """Map names to templates: ``f1`` is the task's own, ``f2`` and higher are further ones, ``contrast`` is the contrast.

    Args:
        task: Name of the task.
        own: The task's own template.
        given: Wordings that take precedence over :data:`WORDINGS`. A task in neither gets two templates with neutral field
            names such as input and output, and a contrast with one more newline. If its template has no newline, the contrast
            has one after the text.

    Raises:
        InputError: One of the templates equals the task's own.
    """
    wording = given.get(task) or WORDINGS.get(task)
    if wording is None:
        others = [other for other in (_NEUTRAL, "Text: {text}\nLabel:{label}") if other != own]
        least = own.replace("\n", "\n\n", 1) if "\n" in own else own.replace("{text}", "{text}\n", 1)
        wording = Wording(templates=others, contrast=least)
    found = {OWN: own, **{f"f{n}": template for n, template in enumerate(wording.templates, 2)}, CONTRAST: wording.contrast}
    if len(set(found.values())) < len(found):
        raise InputError(f"studies.components.templates.{task}: one of its templates is the task's own, {own!r}; name others")
    return found


def of_prompt(row: Mapping) -> str:
    """Recover the template of a row of a prompts table from its first demonstration.

    Raises:
        InputError: The row has no demonstration, or its label does not follow its text.
    """
    if not len(row["demo_labels"]):
        raise InputError(f"prompt {row['prompt_id']} has no demonstration; its template cannot be told")
    (start, end), (label, _) = row["text_spans"][0], row["label_spans"][0]
    if end > label:
        raise InputError(f"prompt {row['prompt_id']}: its label stands before its text, so it cannot be written by a template")
    return row["text"][:start] + "{text}" + row["text"][end:label] + "{label}"


def texts(row: Mapping) -> tuple[list[str], str]:
    """Return the texts of a prompt's demonstrations and the text of its query."""
    start, end = row["query_span"]
    return [row["text"][first:last] for first, last in row["text_spans"]], row["text"][start:end]


def rewritten(row: Mapping, template: str, chosen: Sequence[int], **changed: object) -> dict:
    """Rewrite a prompt with a subset of its demonstrations and another template.

    Args:
        row: Row of a prompts table.
        template: Template with {text} and {label}.
        chosen: Indices of the demonstrations to keep, in order.
        changed: ``query``, the text of another query, with its ``gold``; or any other column.

    Returns:
        A row of a prompts table.
    """
    words = tuple(row["label_words"])
    written, query = texts(row)
    labels = [int(row["demo_labels"][d]) for d in chosen]
    task = Task(row["task"], row["task"], template, words, words)
    return {
        **row,
        "shots": labels.count(labels[0]) if labels else 0,
        "demo_indices": [int(row["demo_indices"][d]) for d in chosen],
        "demo_labels": labels,
        **write_prompt(task, [written[d] for d in chosen], labels, changed.pop("query", query)),
        **changed,
    }


def first_of_each(labels: Sequence[int], count: int) -> list[int]:
    """Return the indices of the first ``count`` demonstrations of each class, in order."""
    labels = list(labels)
    return [place for place, label in enumerate(labels) if labels[:place].count(label) < count]


def in_turn(labels: Sequence[int], places: Sequence[int]) -> list[int]:
    """Order indices so that the classes alternate: the first of each class, then the second of each, and so on."""
    table = pd.DataFrame({"place": list(places), "label": [int(labels[place]) for place in places]})
    table["turn"] = table.groupby("label").cumcount()
    return table.sort_values(["turn", "label"], kind="stable")["place"].tolist()
