"""Task definitions: the template that turns a text into a prompt, and the label word of each class.

The four tasks are from *Label Words are Anchors* (Wang et al., EMNLP 2023), Table 4 (appendix A). To add a task, add an entry
to :data:`TASKS`; no other code in the package refers to a task by its name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A classification task and the format of its prompts.

    Attributes:
        name: The key of the task in the config and in paths.
        title: The display name of the task.
        template: The template of one demonstration, with ``{text}`` and ``{label}``. The query uses the same template without
            the label.
        label_words: One label word per class, with its leading space, in the order of the class indices.
        classes: The names of the classes in the original release, in the same order.
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
