"""The record of a fetched repository: ``fetched.json``, in the same folder as the files that it names.

It says which repository of the hub, which revision was asked for, which commit that was, and the size and SHA-256 of every
file. It is written last, so that its presence says that everything was there, and it holds no time, so that the same commit
gives the same bytes. It is apart from :mod:`icl_lens.hub.fetch`, so that reading the files needs nothing of fetching them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_lens.errors import InputError

RECORD = "fetched.json"


@dataclass(frozen=True)
class Fetched:
    """What ``fetched.json`` says.

    Attributes:
        hub: The repository, as asked for: ``owner/name``, or a name alone.
        revision: The branch, tag or commit that was asked for.
        commit: The commit that it was, 40 hexadecimal digits.
        files: Name (relative to the folder, with ``/``) -> ``{"size": bytes, "sha256": hexadecimal}``.
        config: A data set's configuration; None for a model.
        splits: A data set's splits, each with its files in order; None for a model.
    """

    hub: str
    revision: str
    commit: str
    files: dict[str, dict[str, Any]]
    config: str | None = None
    splits: dict[str, list[str]] | None = None

    def text(self) -> str:
        """The record as it is written: JSON, keys sorted."""
        return json.dumps({k: v for k, v in vars(self).items() if v is not None}, indent=1, sort_keys=True) + "\n"


def read(folder: Path | str) -> Fetched | None:
    """The record in a folder; None where there is none, because the folder was not fetched.

    Raises:
        InputError: It is damaged, or a file that it names is absent or of another size.
    """
    folder = Path(folder)
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = Fetched(**json.loads(path.read_text(encoding="utf-8")))
        sizes = {name: int(file["size"]) for name, file in record.files.items()}
        named = {name for files in (record.splits or {}).values() for name in files}
        if not (named <= sizes.keys() and all(isinstance(v, str) for v in (record.hub, record.revision, record.commit))):
            raise ValueError("a part of it is missing")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged; delete it, and the command that fetched it checks the files and writes it anew"
        ) from error
    require_sizes(path, sizes, "the command that fetched it fetches this file again")
    return record


def require_sizes(record: Path, sizes: dict[str, int], remedy: str) -> None:
    """Refuse a folder whose files are not those that its record names.

    Args:
        record: The path of the record; the files are in the same folder.
        sizes: Name -> bytes.
        remedy: What happens when the record is deleted.

    Raises:
        InputError: A file is absent or of another size.
    """
    for name, size in sizes.items():
        file = record.parent / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is not there" if found is None else f"has {found} bytes where {record.name} says {size}"
            raise InputError(f"{file} {what}; delete {record}, and {remedy}")
