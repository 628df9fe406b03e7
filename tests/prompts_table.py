"""Small prompts tables that need no corpus."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from icl_lens.prompts.protocol import write_prompt
from icl_lens.tasks.task import TASKS, Task

from .conftest import TEXTS

WORDS_TEMPLATE = "Review: {text}\nSentiment:{label}"
"""The template of :func:`words_table`."""


def prompts_table(task: str = "sst2", count: int = 6, shots: int = 1) -> pd.DataFrame:
    """Create prompts of different lengths, with each class in the demonstrations."""
    definition = TASKS[task]
    classes = len(definition.label_words)
    rows = []
    for number in range(count):
        labels = [(c + number) % classes for c in range(classes)] * shots
        texts = [" ".join([TEXTS[(number + d) % len(TEXTS)]] * (1 + (number * d) % 3)) for d in range(len(labels))]
        query = " ".join([TEXTS[-number % len(TEXTS)]] * (1 + number % 4))
        rows.append(
            {
                "task": task,
                "set": f"fresh-{shots}shot",
                "seed": 42 + number % 2,
                "prompt_id": 100 + number,
                "shots": shots,
                "query_index": number,
                "demo_indices": list(range(len(labels))),
                "gold": number % classes,
                "label_words": list(definition.label_words),
                "demo_labels": labels,
                **write_prompt(definition, texts, labels, query),
            }
        )
    return pd.DataFrame(rows)


def shared_table(task: str = "agnews", count: int = 8, shots: int = 1) -> pd.DataFrame:
    """Create prompts with shared demonstrations.

    All prompts except the last two have the demonstrations of the first or of the second prompt, alternately.
    """
    table = prompts_table(task, count=count, shots=shots)
    rows = table.to_dict("records")
    for number, row in enumerate(rows[:-2]):
        giver = table.iloc[number % 2]
        query = row["text"][row["query_span"][0] : row["query_span"][1]]
        start, end = giver["query_span"]
        longer = len(query) - (end - start)
        rows[number] = {
            **giver.to_dict(),
            **{name: row[name] for name in ("prompt_id", "query_index", "gold", "seed")},
            "text": giver["text"][:start] + query + giver["text"][end:],
            "query_span": [start, end + longer],
            "prefix_spans": [*giver["prefix_spans"][:-1], [place + longer for place in giver["prefix_spans"][-1]]],
        }
    return pd.DataFrame(rows)


def words_table(words: Sequence[str], count: int = 3, shared: bool = False) -> pd.DataFrame:
    """Create prompts of different lengths with the given label words and one demonstration per class.

    Args:
        words: The label words.
        count: Number of prompts.
        shared: Whether the prompts have the same demonstrations.
    """
    task = Task("mine", "mine", WORDS_TEMPLATE, tuple(words), tuple(word.strip() for word in words))
    classes, rows = len(words), []
    for number in range(count):
        first = 0 if shared else number
        labels = [(c + first) % classes for c in range(classes)]
        texts = [" ".join([TEXTS[(first + d) % len(TEXTS)]] * (1 + (first * d) % 3)) for d in range(classes)]
        query = " ".join([TEXTS[-number % len(TEXTS)]] * (1 + number % 4))
        rows.append(
            {
                **{"task": "mine", "set": "fresh-1shot", "seed": 42, "prompt_id": number, "shots": 1, "query_index": number},
                **{"gold": number % classes, "label_words": list(words), "demo_labels": labels},
                **{"demo_indices": list(range(classes)), **write_prompt(task, texts, labels, query)},
            }
        )
    return pd.DataFrame(rows)
