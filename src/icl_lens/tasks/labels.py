"""The ways in which a user may write a label of a task."""

from __future__ import annotations

from icl_lens.tasks.task import Task


def label_indices(task: Task) -> dict[str, int]:
    """Return the class index of each way to write a label.

    A label is one of the label words (without the leading space), the name of a class, or a class index as a string if no label
    word or class name is a number.
    """
    known = {word.strip(): index for index, word in enumerate(task.label_words)}
    known = {**{name: index for index, name in enumerate(task.classes)}, **known}
    if not any(name.isdecimal() for name in known):
        known |= {str(index): index for index in range(len(task.label_words))}
    return known
