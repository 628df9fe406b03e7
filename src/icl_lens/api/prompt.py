"""A prompt of the user's own: from examples and a template, or parsed from a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icl_lens.api import parsing
from icl_lens.errors import InputError
from icl_lens.prompts.protocol import write_prompt
from icl_lens.short_repr import short_list, short_repr
from icl_lens.tasks.labels import label_indices
from icl_lens.tasks.own import VARIANTS, require_label_words, require_template
from icl_lens.tasks.task import TASKS, Task

if TYPE_CHECKING:
    from icl_lens.api.model import Model
    from icl_lens.api.positions import Positions

Span = tuple[int, int]
"""[start, end) characters of a text."""

Label = str | int
"""A label word (the leading space may be omitted), the name of a class, or a class index."""

NAME = "own"
"""Name of the task of a prompt that has no :class:`icl_lens.Task`, and of the prompt set of all prompts of the user."""


class Demonstration(NamedTuple):
    """A demonstration in a prompt.

    Attributes:
        text: Its text.
        label: Its label word, with the leading space.
    """

    text: str
    label: str


@dataclass(frozen=True, repr=False)
class Prompt:
    """A prompt with demonstrations and a query, whose label the model predicts.

    Use :meth:`from_examples` or :meth:`parse` to create one. All spans are [start, end) characters of ``text``.

    Attributes:
        text: The prompt. It ends where the label word of the query would begin.
        label_words: One label word per class, with its leading space if it has one.
        demo_labels: Class index of each demonstration.
        label_spans: Span of each demonstration's label word, including the leading space.
        text_spans: Span of each demonstration's text.
        query_span: Span of the query's text.
        prefix_spans: Spans of the template pieces, such as "Review:" and "Sentiment:", in order.
        gold: Class index of the query; None if it is unknown.
        task: Name of the task in tables.
    """

    text: str
    label_words: tuple[str, ...]
    demo_labels: tuple[int, ...]
    label_spans: tuple[Span, ...]
    text_spans: tuple[Span, ...]
    query_span: Span
    prefix_spans: tuple[Span, ...]
    gold: int | None = None
    task: str = NAME

    @classmethod
    def from_examples(
        cls,
        task: str | Task,
        demonstrations: Sequence[tuple[str, Label] | Mapping[str, Any]],
        query: str,
        label_words: Sequence[str] | None = None,
        gold: Label | None = None,
    ) -> Prompt:
        """Write a prompt from demonstrations and a query. A newline separates the demonstrations.

        Args:
            task: Name of a built-in task ("sst2", "trec", "agnews", "emoc"), an ``icl_lens.Task``, or a template such as
                ``"Review: {text}\\nSentiment:{label}"``.
            demonstrations: Pairs of a text and a label, or mappings with the keys ``text`` and ``label``, in prompt order. A
                label is a label word (the leading space may be omitted), the name of a class or a class index.
            query: The text whose label the model predicts.
            label_words: With a template, one label word per class, each with a leading space. If the template has a space
                before ``{label}`` and no label word has one, the space becomes part of the label words.
            gold: The label of the query, if it is known. Some studies need it.

        Returns:
            The prompt.

        Raises:
            InputError: The task is unknown, the template lacks ``{text}`` or ``{label}``, a label word is invalid, a label is
                none of the label words, or a text is empty.
        """
        resolved = _task(task, label_words)
        pairs = [_pair(number, each) for number, each in enumerate(demonstrations)]
        texts = [_text(f"demonstrations[{number}]", text) for number, (text, _) in enumerate(pairs)]
        labels = [_label(f"demonstrations[{number}]", label, resolved) for number, (_, label) in enumerate(pairs)]
        written = write_prompt(resolved, texts, labels, _text("query", query))
        return cls(
            text=written["text"],
            label_words=tuple(resolved.label_words),
            demo_labels=tuple(labels),
            label_spans=_spans(written["label_spans"]),
            text_spans=_spans(written["text_spans"]),
            query_span=_spans([written["query_span"]])[0],
            prefix_spans=_spans(written["prefix_spans"]),
            gold=None if gold is None else _label("gold", gold, resolved),
            task=resolved.name,
        )

    @classmethod
    def parse(
        cls, text: str, label_words: Sequence[str], template: str | None = None, gold: Label | None = None, task: str = NAME
    ) -> Prompt:
        """Find the demonstrations, the template and the query in a text that the user wrote.

        The text contains demonstrations, each with a label word at its end, and then the query without one. Anything before the
        first demonstration, such as an instruction, belongs to no span.

        1. The text ends with the template piece that precedes each label word, such as "Sentiment:". A label word counts as the
           label of a demonstration where it is a whole word and the same piece precedes it. The piece is what the end of the
           text has in common with the text before these label words: whole lines, or the last words of a line. Without such a
           piece, a label word counts where it ends a line.
        2. The text between two label words is one demonstration, and the text after the last one is the query.
        3. The template piece at the beginning of the demonstrations and of the query, such as "Review:", is what all of them
           have in common there, up to the first colon. Without a colon, it is the common first line, if there is one.
        4. If a space precedes the label words, it is part of them. The whitespace at the end of the text is replaced by the
           rest of the whitespace that precedes the label words.

        With ``template``, the pieces are those of the template, and nothing is guessed.

        Args:
            text: The prompt.
            label_words: One label word per class. A leading space may be omitted.
            template: The template of the demonstrations, such as ``"Review: {text}\\nSentiment:{label}"``.
            gold: The label of the query, if it is known. Some studies need it.
            task: Name of the task in tables.

        Returns:
            The prompt.

        Raises:
            InputError: The text contains no label word, ends with one, has no text after the last one, has a label word without
                a text or a template piece without a label word, or does not end with the template piece.
        """
        found = parsing.parse(text, label_words, template)
        named = Task(task, task, "", found.label_words, tuple(word.strip() for word in found.label_words))
        return cls(**found._asdict(), gold=None if gold is None else _label("gold", gold, named), task=task)

    @property
    def demonstrations(self) -> list[Demonstration]:
        """The text and the label word of each demonstration."""
        return [
            Demonstration(self.text[slice(*span)], self.label_words[label])
            for span, label in zip(self.text_spans, self.demo_labels, strict=True)
        ]

    @property
    def query(self) -> str:
        """The text of the query."""
        return self.text[slice(*self.query_span)]

    def with_gold(self, gold: Label | None) -> Prompt:
        """Return the same prompt with another gold label, or with none.

        Args:
            gold: A label word, a class index, or None.

        Raises:
            InputError: It is none of the label words.
        """
        named = Task(self.task, self.task, "", self.label_words, tuple(word.strip() for word in self.label_words))
        return replace(self, gold=None if gold is None else _label("gold", gold, named))

    def positions(self, model: Model) -> Positions:
        """Return the token positions of the parts of the prompt, for :func:`icl_lens.block` and :func:`icl_lens.scale`.

        Args:
            model: The model, whose tokenizer, ``bos`` and ``chat`` determine the tokens.

        Raises:
            InputError: The prompt cannot be tokenized, for example because a label word shares a token with other text.
        """
        from icl_lens.api.interventions import positions  # imports torch, which a prompt does not need

        return positions(model, self)

    def row(self) -> dict[str, Any]:
        """Return the row of this prompt in a prompts table, see :func:`icl_lens.prompts_table`."""
        counts = [self.demo_labels.count(label) for label in set(self.demo_labels)]
        return {
            "task": self.task,
            "set": NAME,
            "seed": 0,
            "prompt_id": 0,
            "shots": max(counts, default=0),
            "query_index": 0,
            "demo_indices": list(range(len(self.demo_labels))),
            "text": self.text,
            "gold": self.gold,
            "label_words": list(self.label_words),
            "demo_labels": list(self.demo_labels),
            **{name: [list(span) for span in getattr(self, name)] for name in ("label_spans", "text_spans")},
            "query_span": list(self.query_span),
            "prefix_spans": [list(span) for span in self.prefix_spans],
        }

    def __repr__(self) -> str:
        words = short_list(word.strip() for word in self.label_words)
        gold = "unknown" if self.gold is None else repr(self.label_words[self.gold].strip())
        return f"Prompt({len(self.demo_labels)} demonstrations, query {short_repr(self.query)}, labels {words}, gold {gold})"


def _task(task: str | Task, label_words: Sequence[str] | None) -> Task:
    """Return the task that the arguments of :meth:`Prompt.from_examples` describe."""
    if isinstance(task, str) and re.fullmatch(r"[\w-]*", task):
        known = {**TASKS, **{name: variant.task(name, TASKS) for name, variant in VARIANTS.items()}}
        if task not in known:
            raise InputError(
                f"task: {task!r} is unknown (known: {', '.join(known)}); use one of these, an icl_lens.Task, or a template "
                "with {text} and {label}"
            )
        task = known[task]
    elif isinstance(task, str):
        if label_words is None:
            raise InputError('label_words is missing; a template needs one label word per class, such as [" bad", " good"]')
        words = parsing.checked_words(label_words)
        if task.endswith(" {label}") and not any(word[:1].isspace() for word in words):
            task, words = task.removesuffix(" {label}") + "{label}", [f" {word}" for word in words]
        task = Task(NAME, NAME, task, tuple(words), tuple(word.strip() for word in words))
        label_words = None
    elif not isinstance(task, Task):
        raise InputError(f"task must be the name of a task, an icl_lens.Task or a template, got {short_repr(task)}")
    if label_words is not None:
        raise InputError(f"label_words are those of task {task.name}; remove label_words, or pass a template as the task")
    try:
        require_template(task.template)
        require_label_words(list(task.label_words))
    except ValueError as error:
        raise InputError(str(error)) from None
    return task


def _pair(number: int, example: Any) -> tuple[Any, Any]:
    """Return the text and the label of a demonstration."""
    if isinstance(example, Mapping) and {"text", "label"} <= example.keys():
        return example["text"], example["label"]
    if isinstance(example, Sequence) and not isinstance(example, str) and len(example) == 2:
        return example[0], example[1]
    raise InputError(f"demonstrations[{number}] must be a pair of a text and a label, got {short_repr(example)}")


def _text(argument: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{argument}: the text must be a string that is not empty, got {short_repr(text)}")
    return text


def _label(argument: str, label: Any, task: Task) -> int:
    """Return the class index of a label."""
    classes = len(task.label_words)
    if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < classes:
        return int(label)
    known = label_indices(task)
    if isinstance(label, str) and label.strip() in known:
        return known[label.strip()]
    words = ", ".join(word.strip() for word in task.label_words)
    raise InputError(f"{argument}: unknown label {short_repr(label)}; the labels are {words} (or 0 to {classes - 1})")


def _spans(spans: Sequence[Sequence[int]]) -> tuple[Span, ...]:
    return tuple((int(start), int(end)) for start, end in spans)
