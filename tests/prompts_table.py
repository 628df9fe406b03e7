"""A small prompts table that needs no corpus."""

from __future__ import annotations

import pandas as pd

from icl_lens.prompts import write_prompt
from icl_lens.tasks import TASKS

from .conftest import TEXTS


def prompts_table(task: str = "sst2", count: int = 6, shots: int = 1) -> pd.DataFrame:
    """Prompts of different lengths, every class in the demonstrations."""
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
