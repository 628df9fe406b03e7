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


def task_templates(task: str, template: str, wordings: Mapping[str, Wording]) -> dict[str, str]:
    """Map names to templates: ``f1`` is the task's own, ``f2`` and higher are further ones, ``contrast`` is the contrast.

    Args:
        task: Name of the task.
        template: The task's own template.
        wordings: Wordings that take precedence over :data:`WORDINGS`. A task in neither gets two templates with neutral field
            names such as input and output, and a contrast with one more newline. If its template has no newline, the contrast
            has one after the text.

    Raises:
        InputError: One of the templates equals the task's own.
    """
    wording = wordings.get(task) or WORDINGS.get(task)
    if wording is None:
        neutral = [other for other in (_NEUTRAL, "Text: {text}\nLabel:{label}") if other != template]
        contrast = template.replace("\n", "\n\n", 1) if "\n" in template else template.replace("{text}", "{text}\n", 1)
        wording = Wording(templates=neutral, contrast=contrast)
    templates = {
        OWN: template,
        **{f"f{n}": further for n, further in enumerate(wording.templates, 2)},
        CONTRAST: wording.contrast,
    }
    if len(set(templates.values())) < len(templates):
        raise InputError(
            f"studies.components.templates.{task} contains the task's own template {template!r}; use different templates"
        )
    return templates


def recover_template(row: Mapping) -> str:
    """Recover the template of a row of a prompts table from its first demonstration.

    Raises:
        InputError: The row has no demonstration, or its label does not follow its text.
    """
    if not len(row["demo_labels"]):
        raise InputError(
            f"prompt {row['prompt_id']} has no demonstration, so its template is unknown; use prompts with demonstrations"
        )
    (start, end), (label, _) = row["text_spans"][0], row["label_spans"][0]
    if end > label:
        raise InputError(
            f"prompt {row['prompt_id']}: the label precedes the text, so the template is unknown; use a template with "
            f"{{label}} after {{text}}"
        )
    return row["text"][:start] + "{text}" + row["text"][end:label] + "{label}"


def prompt_texts(row: Mapping) -> tuple[list[str], str]:
    """Return the texts of a prompt's demonstrations and the text of its query."""
    start, end = row["query_span"]
    return [row["text"][first:last] for first, last in row["text_spans"]], row["text"][start:end]


def rewrite(row: Mapping, template: str, indices: Sequence[int], **changes: object) -> dict:
    """Rewrite a prompt with a subset of its demonstrations and another template.

    Args:
        row: Row of a prompts table.
        template: Template with {text} and {label}.
        indices: Indices of the demonstrations to keep, in order.
        changes: ``query``, the text of another query, with its ``gold``; or any other column.

    Returns:
        A row of a prompts table.
    """
    words = tuple(row["label_words"])
    demonstrations, query = prompt_texts(row)
    labels = [int(row["demo_labels"][d]) for d in indices]
    task = Task(row["task"], row["task"], template, words, words)
    return {
        **row,
        "shots": labels.count(labels[0]) if labels else 0,
        "demo_indices": [int(row["demo_indices"][d]) for d in indices],
        "demo_labels": labels,
        **write_prompt(task, [demonstrations[d] for d in indices], labels, changes.pop("query", query)),
        **changes,
    }


def first_per_class(labels: Sequence[int], count: int) -> list[int]:
    """Return the indices of the first ``count`` demonstrations of each class, in order."""
    labels = list(labels)
    return [index for index, label in enumerate(labels) if labels[:index].count(label) < count]


def alternate_classes(labels: Sequence[int], indices: Sequence[int]) -> list[int]:
    """Order indices so that the classes alternate: the first of each class, then the second of each, and so on."""
    table = pd.DataFrame({"place": list(indices), "label": [int(labels[index]) for index in indices]})
    table["turn"] = table.groupby("label").cumcount()
    return table.sort_values(["turn", "label"], kind="stable")["place"].tolist()
