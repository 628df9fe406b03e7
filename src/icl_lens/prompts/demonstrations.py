"""Functions to read, select and replace the demonstrations in a row of a prompts table, and to replace its query."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Queries of contextual calibration (Zhao et al., arXiv 2102.09690)."""


def replace_demonstrations(row: dict, texts: Sequence[str], labels: Sequence[int]) -> dict:
    """Replace the texts and label words of the demonstrations in a prompt; the rest of the prompt is unchanged.

    Args:
        row: A row of a prompts table.
        texts: The new texts of the D demonstrations, in prompt order.
        labels: The new class indices of the demonstrations.

    Returns:
        The changed columns of the row: text, demo_labels, label_spans, text_spans, query_span and prefix_spans. The spans refer
        to the new text.
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
        "demo_labels": [int(label) for label in labels],
        **spans,
        "query_span": shifted(row["query_span"]),
        "prefix_spans": [shifted(span) for span in row["prefix_spans"]],
    }


def demonstration_texts(row: dict) -> list[str]:
    """Return the texts of the demonstrations in a row of a prompts table, in prompt order."""
    return [row["text"][int(start) : int(end)] for start, end in row["text_spans"]]


def keep_demonstrations(row: dict, kept: Sequence[int]) -> dict:
    """Write a prompt with only some of its demonstrations, in a given order.

    Args:
        row: A row of a prompts table. Only whitespace separates a label word from the next demonstration or the query.
        kept: Indices of the demonstrations in the new prompt, in its order. An index can occur several times.

    Returns:
        The changed columns of the row: text, demo_labels, label_spans, text_spans, query_span, prefix_spans, and demo_indices
        if the row has this column. The spans refer to the new text. Characters before the first demonstration stay.
    """
    starts = _starts(row)
    last = len(starts) - 1  # the query
    text, shifts = row["text"][: starts[0]], []
    for index in (*kept, last):
        shifts.append(len(text) - starts[index])
        text += row["text"][starts[index] : starts[index + 1] if index < last else None]

    def shifted(span: Sequence[int], shift: int) -> list[int]:
        return [int(edge) + shift for edge in span]

    pieces: dict[int, list] = {}
    for span in row["prefix_spans"]:
        pieces.setdefault(sum(start <= span[0] for start in starts) - 1, []).append(span)
    examples = [(index, shift) for index, shift in zip((*kept, last), shifts, strict=True)]
    found = {
        "text": text,
        "demo_labels": [int(row["demo_labels"][index]) for index in kept],
        **{
            name: [shifted(row[name][index], shift) for index, shift in examples[:-1]] for name in ("label_spans", "text_spans")
        },
        "query_span": shifted(row["query_span"], shifts[-1]),
        "prefix_spans": [
            *(shifted(span, 0) for span in pieces.get(-1, [])),
            *(shifted(span, shift) for index, shift in examples for span in pieces.get(index, [])),
        ],
    }
    if "demo_indices" in row:
        found["demo_indices"] = [int(row["demo_indices"][index]) for index in kept]
    return found


def keep_shots(row: dict, shots: int) -> dict:
    """Write a prompt with only the first ``shots`` demonstrations of each class, in the same order.

    Returns:
        See :func:`keep_demonstrations`.
    """
    labels = list(row["demo_labels"])
    return keep_demonstrations(row, [i for i, label in enumerate(labels) if labels[:i].count(label) < shots])


def demonstrations_digest(row: dict) -> int:
    """Return a number that depends only on the texts and the labels of the demonstrations of a prompt, for random draws."""
    content = "\0".join([*demonstration_texts(row), *map(str, row["demo_labels"])])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8])


def number_demonstrations(rows: Sequence[dict]) -> list[int]:
    """Return the number of the demonstrations of each prompt, from 0 in order of their first prompt.

    Prompts have the same number if they have the same label words, and the same text except for the query.
    """
    numbers: dict[tuple, int] = {}
    found = []
    for row in rows:
        key = (replace_query(row, "")["text"], int(row["query_span"][0]), *row["label_words"])
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def replace_query(row: dict, query: str) -> dict:
    """Replace the text of the query in a prompt; the rest of the prompt is unchanged.

    Args:
        row: A row of a prompts table.
        query: The new text. It can be empty.

    Returns:
        The changed columns of the row: text, query_span and prefix_spans. The spans refer to the new text.
    """
    start, end = (int(edge) for edge in row["query_span"])
    shift = len(query) - (end - start)
    return {
        "text": row["text"][:start] + query + row["text"][end:],
        "query_span": [start, start + len(query)],
        "prefix_spans": [[int(edge) + (shift if span[0] >= end else 0) for edge in span] for span in row["prefix_spans"]],
    }


def _starts(row: dict) -> list[int]:
    """Return the first character of each demonstration and of the query."""
    text, labels = row["text"], row["label_spans"]
    if not len(labels):
        return [min((int(start) for start, _ in row["prefix_spans"]), default=int(row["query_span"][0]))]
    following = [int(end) + len(text[int(end) :]) - len(text[int(end) :].lstrip()) for _, end in labels]
    # The template piece before the first text is as long as that before the query.
    before = max(0, int(row["query_span"][0]) - following[-1])
    return [max(0, int(row["text_spans"][0][0]) - before), *following]
