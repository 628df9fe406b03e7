"""Tasks beyond the paper's four, as defined under ``own_tasks`` in the config: template, label words and source of the texts.

Such a task is a :class:`~icl_lens.tasks.task.Task` like the paper's four, and all later steps treat it in the same way. The
project defines some itself (:data:`VARIANTS`); only the items that name them show them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    booleans = [key for key in mapping if isinstance(key, bool)]
    if booleans:
        raise ValueError(
            f"a label must be text, got {booleans[0]} (YAML reads unquoted yes, no, true and false as booleans); put it in "
            "quotes"
        )
    converted = {str(key) if isinstance(key, int) else key: word for key, word in mapping.items()}
    if len(converted) < len(mapping):
        raise ValueError("duplicate label, once as a number and once as text; labels must be unique")
    return converted


def require_template(template: str) -> None:
    """Require that prompts can be written from a template.

    Raises:
        ValueError: It does not contain ``{text}`` once and end with ``{label}``, it has another field, or whitespace precedes
            ``{label}``.
    """
    pieces = re.findall(r"\{[^{}]*\}", template)
    if sorted(pieces) != ["{label}", "{text}"] or not template.endswith("{label}"):
        raise ValueError(
            f"template {template!r} must contain {{text}} once, end with {{label}} and have no other field, because the query "
            "ends before its label and the next token is the prediction"
        )
    if template.removesuffix("{label}")[-1:].isspace():
        raise ValueError(
            f"template {template!r} must not have whitespace before {{label}}, because tokenizers treat it differently at the "
            'end of a prompt; move it to the label words, as in "Verdict:{label}" and " good"'
        )


def require_label_words(words: Sequence[str]) -> None:
    """Require that label words are unique, each with a leading space.

    Raises:
        ValueError: A label word is a duplicate, or lacks the leading space.
    """
    invalid = [word for word in words if not word[:1].isspace() or not word.strip() or word != word.rstrip()]
    if invalid:
        raise ValueError(
            f"label_words: {invalid[0]!r} must be a word with a leading space and no trailing space, such as ' good'"
        )
    if len(set(words)) < len(words):
        raise ValueError(
            f"label_words: duplicate word {next(word for word in words if words.count(word) > 1)!r}; words must be unique"
        )


class OwnTask(Section):
    """A task defined by the user."""

    title: str | None = Field(default=None, min_length=1, description="Name in figures. Default: the key of the task.")
    template: str | None = Field(
        default=None,
        description='Format of one demonstration, e.g. "Review: {text}\\nVerdict:{label}". The query has no label.',
    )
    label_words: Annotated[dict[str, str], BeforeValidator(_as_text)] = Field(
        min_length=2,
        description="Value of the label column (for a Hub data set: name of the class) -> label word with its leading space, "
        'e.g. {neg: " bad", pos: " good"}. The order is the order of the classes.',
    )
    text: list[str] = Field(
        default_factory=lambda: ["text"], min_length=1, description="Text columns; their values are joined by a space."
    )
    label: str = Field(default="label", min_length=1, description="Name of the label column.")
    train: str = Field(
        default="train",
        min_length=1,
        description="Texts of the demonstrations: a file (.csv, .tsv, .jsonl or .parquet) or, with `hub`, the name of a split.",
    )
    test: str = Field(
        default="test", min_length=1, description="Texts of the queries: a file or, with `hub`, the name of a split."
    )
    hub: str | None = Field(default=None, min_length=3, description="Instead of files: a data set on the Hub (owner/name).")
    revision: str = Field(
        default="refs/convert/parquet",
        min_length=1,
        description="hub only: a commit or branch. The default is the branch with the Hub's Parquet copy of the data set.",
    )
    config: str = Field(default="default", min_length=1, description="hub only: configuration of the data set.")
    like: str | None = Field(
        default=None,
        description="Instead of files or `hub`: name of one of the paper's tasks. It provides the texts, and the template if "
        "none is given. The keys of `label_words` must be its class names.",
    )

    @model_validator(mode="after")
    def _check_definition(self) -> OwnTask:
        if self.like is None and self.template is None:
            raise ValueError("template is missing; add one, or set like")
        if self.template is not None:
            require_template(self.template)
        require_label_words(list(self.label_words.values()))
        explicit = self.model_fields_set
        if self.like is not None and explicit & {"text", "label", "train", "test", "hub", "revision", "config"}:
            raise ValueError(f"like: {self.like} provides the texts; remove text, label, train, test, hub, revision and config")
        if self.like is None and self.hub is None:
            if explicit & {"revision", "config"}:
                raise ValueError("revision and config need hub; remove them, or set hub")
            missing = {"train", "test"} - explicit
            if missing:
                raise ValueError(f"{min(missing)} is missing; set it to a file, or set hub to a data set on the Hub")
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
            raise ValueError(f"like: {self.like!r} is unknown (known: {', '.join(tasks)})")
        base = tasks[self.like]
        if set(self.label_words) != set(base.classes):
            raise ValueError(f"label_words: the keys must be the classes of {base.name} ({', '.join(base.classes)})")
        words = tuple(self.label_words[name] for name in base.classes)
        title = self.title or f"{base.title} ({', '.join(word.strip() for word in words)})"
        return Task(name, title, self.template or base.template, words, base.classes)


# Tasks of the paper with other label words. The labels of sst2_ab have no meaning (appendix F.2, Figures 12 and 13). Both
# variants replace tasks of a companion study for which there are no built-in texts.
VARIANTS: dict[str, OwnTask] = {
    "sst2_ab": OwnTask(like="sst2", label_words={"negative": " A", "positive": " B"}),
    "agnews_abcd": OwnTask(like="agnews", label_words={"World": " A", "Sports": " B", "Business": " C", "Sci/Tech": " D"}),
}
