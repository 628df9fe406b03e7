"""Functions to read and replace the demonstrations in a row of a prompts table."""

from __future__ import annotations

from collections.abc import Sequence


def replace_demonstrations(row: dict, texts: Sequence[str], labels: Sequence[int]) -> dict:
    """Replace the texts and label words of the demonstrations in a prompt; the rest of the prompt is unchanged.

    Args:
        row: A row of a prompts table.
        texts: The new texts of the D demonstrations, in prompt order.
        labels: The new class indices of the demonstrations.

    Returns:
        The changed columns of the row: text, label_spans, text_spans, query_span and prefix_spans. The spans refer to the new
        text.
    """
    words = [row["label_words"][label] for label in labels]
    changes = sorted(
        (int(start), int(end), kind, index)
        for kind in ("text_spans", "label_spans")
        for index, (start, end) in enumerate(row[kind])
    )
    pieces = {"text_spans": texts, "label_spans": words}
    spans: dict[str, list] = {kind: [None] * len(row[kind]) for kind in pieces}
    text, copied, shifts = "", 0, []
    for start, end, kind, index in changes:
        text += row["text"][copied:start]
        spans[kind][index] = [len(text), len(text) + len(pieces[kind][index])]
        text += pieces[kind][index]
        copied = end
        shifts.append(len(text) - end)

    def shifted(span) -> list[int]:
        """Shift a span that overlaps no replaced text, by the shift of the last replacement before it."""
        before = sum(end <= span[0] for _, end, *_ in changes)
        shift = shifts[before - 1] if before else 0
        return [int(span[0]) + shift, int(span[1]) + shift]

    return {
        "text": text + row["text"][copied:],
        **spans,
        "query_span": shifted(row["query_span"]),
        "prefix_spans": [shifted(span) for span in row["prefix_spans"]],
    }


def demonstration_texts(row: dict) -> list[str]:
    """Return the texts of the demonstrations in a row of a prompts table, in prompt order."""
    return [row["text"][int(start) : int(end)] for start, end in row["text_spans"]]
