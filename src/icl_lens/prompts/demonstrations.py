"""The demonstrations of a row of a prompts table: their texts, and the prompt with others in their places."""

from __future__ import annotations

from collections.abc import Sequence


def replace_demonstrations(row: dict, texts: Sequence[str], labels: Sequence[int]) -> dict:
    """A prompt with other texts and label words in its demonstrations, each in its place; all else stays as it is written.

    Args:
        row: A row of a prompts table.
        texts: The demonstrations' texts, in prompt order; D of them.
        labels: Their class indices.

    Returns:
        What changes of the row: text, label_spans, text_spans, query_span and prefix_spans, the spans where they are then.
    """
    words = [row["label_words"][label] for label in labels]
    changes = sorted(
        (int(start), int(end), kind, place)
        for kind in ("text_spans", "label_spans")
        for place, (start, end) in enumerate(row[kind])
    )
    pieces = {"text_spans": texts, "label_spans": words}
    spans: dict[str, list] = {kind: [None] * len(row[kind]) for kind in pieces}
    text, done, shifts = "", 0, []
    for start, end, kind, place in changes:
        text += row["text"][done:start]
        spans[kind][place] = [len(text), len(text) + len(pieces[kind][place])]
        text += pieces[kind][place]
        done = end
        shifts.append(len(text) - end)

    def moved(span) -> list[int]:
        """A span that overlaps nothing that changes: it moves with the last change before it."""
        before = sum(end <= span[0] for _, end, *_ in changes)
        shift = shifts[before - 1] if before else 0
        return [int(span[0]) + shift, int(span[1]) + shift]

    return {
        "text": text + row["text"][done:],
        **spans,
        "query_span": moved(row["query_span"]),
        "prefix_spans": [moved(span) for span in row["prefix_spans"]],
    }


def demonstration_texts(row: dict) -> list[str]:
    """The demonstrations' texts of a row of a prompts table, in prompt order."""
    return [row["text"][int(start) : int(end)] for start, end in row["text_spans"]]
