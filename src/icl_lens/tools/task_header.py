"""Check of the task, the demonstrations and the number format that the header of a file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, get_args

from icl_lens.artifacts import signed_file
from icl_lens.network.number_formats import Dtype
from icl_lens.tasks.own import require_label_words, require_template


class TaskHeader(Protocol):
    """The fields of a header that describe the task, the demonstrations and the number format."""

    dtype: str
    template: str
    label_words: list[str]
    texts: list[str]
    labels: list[int]


def require_consistent(path: Path | str, header: TaskHeader) -> None:
    """Check that prompts can be built from a header. No hash covers the header, so it can be corrupted.

    Raises:
        InputError: A value is not one that icl-lens writes.
    """
    try:
        require_template(header.template)
        require_label_words(header.label_words)
    except ValueError as error:
        raise signed_file.inconsistent(path) from error
    labelled = len(header.labels) == len(header.texts) and all(0 <= c < len(header.label_words) for c in header.labels)
    if not labelled or header.dtype not in get_args(Dtype) or not all(text.strip() for text in header.texts):
        raise signed_file.inconsistent(path)
