"""A task is data: how its text becomes a prompt, and which words stand for its classes.

The four tasks are those of *Label Words are Anchors* (Wang et al., EMNLP 2023), Table 4 (appendix A). To add one, add an entry
to :data:`TASKS`; nothing else in the package knows a task by its name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """How one classification task is written as a prompt.

    Attributes:
        name: The key used in the config and in paths.
        title: The name a reader knows.
        template: One demonstration, with ``{text}`` and ``{label}``; the query is the same without its label.
        label_words: One per class, each with its leading blank, in the order of the class indices.
        classes: The classes' names in the original release, in the same order.
    """

    name: str
    title: str
    template: str
    label_words: tuple[str, ...]
    classes: tuple[str, ...]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            title="SST-2",
            template="Review: {text}\nSentiment:{label}",
            label_words=(" Negative", " Positive"),
            classes=("negative", "positive"),
        ),
        Task(
            name="trec",
            title="TREC",
            template="Question: {text}\nAnswer Type:{label}",
            label_words=(" Abbreviation", " Entity", " Description", " Person", " Location", " Number"),
            classes=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
        ),
        Task(
            name="agnews",
            title="AGNews",
            template="Article: {text}\nAnswer:{label}",
            label_words=(" World", " Sports", " Business", " Technology"),
            classes=("World", "Sports", "Business", "Sci/Tech"),
        ),
        Task(
            name="emoc",
            title="EmoC",
            template="Dialogue: {text}\nEmotion:{label}",
            label_words=(" Others", " Happy", " Sad", " Angry"),
            classes=("others", "happy", "sad", "angry"),
        ),
    )
}
