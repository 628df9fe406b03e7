"""Tasks beyond the paper's four, as defined under ``own_tasks`` in the config: template, label words and source of the texts.

Such a task is a :class:`~icl_lens.tasks.task.Task` like the paper's four, and all later steps treat it in the same way. The
project defines some itself (:data:`VARIANTS`); only the items that name them show them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from icl_lens.section import Section
from icl_lens.tasks.task import Task


def _as_text(mapping: Any) -> Any:
    """Convert label values to strings, because YAML reads an unquoted 0 as a number.

    Raises:
        ValueError: A label is a boolean (YAML reads an unquoted yes as true), or two labels are equal after the conversion.
    """
    if not isinstance(mapping, dict):
        return mapping
    truths = [key for key in mapping if isinstance(key, bool)]
    if truths:
        raise ValueError(f"YAML reads an unquoted yes, no, true or false as {truths[0]}; write it in quotes")
    named = {str(key) if isinstance(key, int) else key: word for key, word in mapping.items()}
    if len(named) < len(mapping):
        raise ValueError("two keys are the same label, once as a number and once as text")
    return named


class OwnTask(Section):
    """A task defined by the user."""

    title: str | None = Field(default=None, min_length=1, description="The name in figures; the key by default.")
    template: str | None = Field(
        default=None,
        description='One demonstration, e.g. "Review: {text}\\nVerdict:{label}"; the query is the same without its label.',
    )
    label_words: Annotated[dict[str, str], BeforeValidator(_as_text)] = Field(
        min_length=2,
        description="Value of the label column (on a hub: the name of the class) -> label word with its leading blank, e.g. "
        '{neg: " bad", pos: " good"}. Their order is that of the classes.',
    )
    text: list[str] = Field(
        default_factory=lambda: ["text"], min_length=1, description="Columns of the text, joined by a blank."
    )
    label: str = Field(default="label", min_length=1, description="The column of the label.")
    train: str = Field(
        default="train",
        min_length=1,
        description="The demonstrations' texts: a file (.csv, .tsv, .jsonl or .parquet); with `hub`, the name of a split.",
    )
    test: str = Field(default="test", min_length=1, description="The queries' texts, likewise.")
    hub: str | None = Field(default=None, min_length=3, description="A data set on the hub, owner/name, instead of files.")
    revision: str = Field(
        default="refs/convert/parquet",
        min_length=1,
        description="hub only: a commit or branch. The default is the branch on which the hub keeps each data set as Parquet.",
    )
    config: str = Field(default="default", min_length=1, description="hub only: the data set's configuration.")
    like: str | None = Field(
        default=None,
        description="Instead of files or a hub: the texts (and the template, if none is given) of one of the paper's tasks, "
        "whose class names are then the keys of `label_words`.",
    )

    @model_validator(mode="after")
    def _can_be_a_task(self) -> OwnTask:
        if self.like is None and self.template is None:
            raise ValueError("template is missing")
        if self.template is not None:
            pieces = re.findall(r"\{[^{}]*\}", self.template)
            if sorted(pieces) != ["{label}", "{text}"] or not self.template.endswith("{label}"):
                raise ValueError(
                    f"template {self.template!r} must hold {{text}} once and end with {{label}}, its only other field: the "
                    "query is written without a label, and what the model says next is its answer"
                )
            if self.template.removesuffix("{label}")[-1:].isspace():
                raise ValueError(
                    f"template {self.template!r}: the blank before {{label}} belongs to the label words (a prompt that ends "
                    'with a blank is read differently); write "Verdict:{label}" and " good"'
                )
        words = list(self.label_words.values())
        bare = [word for word in words if not word[:1].isspace() or not word.strip() or word != word.rstrip()]
        if bare:
            raise ValueError(f"label_words: {bare[0]!r} must begin with a blank, hold a word and end with it, like ' good'")
        if len(set(words)) < len(words):
            raise ValueError("label_words: two classes have the same label word")
        given = self.model_fields_set
        if self.like is not None and given & {"text", "label", "train", "test", "hub", "revision", "config"}:
            raise ValueError(
                f"like: {self.like} brings its own texts; leave out text, label, train, test, hub, revision, config"
            )
        if self.like is None and self.hub is None:
            if given & {"revision", "config"}:
                raise ValueError("revision and config go with hub")
            absent = {"train", "test"} - given
            if absent:
                raise ValueError(f"{min(absent)} is missing: name a file, or a data set on the hub under hub")
        return self

    def task(self, name: str, tasks: Mapping[str, Task]) -> Task:
        """Build the task.

        Args:
            name: The key of the task in the config.
            tasks: The tasks that ``like`` can name.

        Raises:
            ValueError: ``like`` names an unknown task, or the keys of ``label_words`` are not the classes of that task.
        """
        if self.like is None:
            words = tuple(self.label_words.values())
            return Task(name, self.title or name, self.template or "", words, tuple(self.label_words))
        if self.like not in tasks:
            raise ValueError(f"like: {self.like!r} is none of {', '.join(tasks)}")
        base = tasks[self.like]
        if set(self.label_words) != set(base.classes):
            raise ValueError(f"label_words: the classes of {base.name} are {', '.join(base.classes)}; name each once")
        words = tuple(self.label_words[name] for name in base.classes)
        title = self.title or f"{base.title} ({', '.join(word.strip() for word in words)})"
        return Task(name, title, self.template or base.template, words, base.classes)


# Tasks of the paper with other label words. The labels of sst2_ab have no meaning (appendix F.2, Figures 12 and 13). Both
# variants replace tasks of a companion study for which there are no built-in texts.
VARIANTS: dict[str, OwnTask] = {
    "sst2_ab": OwnTask(like="sst2", label_words={"negative": " A", "positive": " B"}),
    "agnews_abcd": OwnTask(like="agnews", label_words={"World": " A", "Sports": " B", "Business": " C", "Sci/Tech": " D"}),
}
