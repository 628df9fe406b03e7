"""The record of a fetched repository: ``fetched.json``, in the same folder as the files that it lists.

The record contains the Hub repository, the requested revision, the commit that it resolved to, and the size and SHA-256 of each
file. It is written last, so a folder with a record is complete. It contains no timestamp, so the same commit gives the same
bytes. This module is separate from :mod:`icl_lens.hub.fetch` so that reading a record does not import the download code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.errors import InputError

RECORD = "fetched.json"


@dataclass(frozen=True)
class Fetched:
    """The contents of ``fetched.json``.

    Attributes:
        hub: Requested repository: ``owner/name``, or a name without an owner.
        revision: Requested branch, tag or commit.
        commit: Commit that the revision resolved to, 40 hexadecimal digits.
        files: File name (relative to the folder, with ``/``) -> ``{"size": bytes, "sha256": hexadecimal}``.
        config: Configuration of a data set; None for a model.
        splits: Splits of a data set, each with its files in order; None for a model.
    """

    hub: str
    revision: str
    commit: str
    files: dict[str, dict[str, Any]]
    config: str | None = None
    splits: dict[str, list[str]] | None = None

    def text(self) -> str:
        """Return the record as JSON with sorted keys, which is the content of its file."""
        return json.dumps({k: v for k, v in vars(self).items() if v is not None}, indent=1, sort_keys=True) + "\n"


def read(folder: Path | str) -> Fetched | None:
    """Return the record in a folder, or None if there is none because the folder was not fetched.

    Raises:
        InputError: The record is corrupted, or a file that it lists is missing or has a different size.
    """
    folder = Path(folder)
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = Fetched(**json_text.loads(path.read_text(encoding="utf-8")))
        sizes = {name: int(file["size"]) for name, file in record.files.items()}
        listed = {name for files in (record.splits or {}).values() for name in files}
        if not (listed <= sizes.keys() and all(isinstance(v, str) for v in (record.hub, record.revision, record.commit))):
            raise ValueError("a field is missing or has the wrong type")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is corrupted; delete it, and rerun the command that fetched it to check the files and write it again"
        ) from error
    require_sizes(path, sizes, "rerun the command that fetched it to fetch this file again")
    return record


def require_sizes(record: Path, sizes: dict[str, int], remedy: str) -> None:
    """Require that each file listed in a record exists and has the recorded size.

    Args:
        record: Path of the record; the files are in the same folder.
        sizes: File name -> size in bytes.
        remedy: What to do after the record is deleted, for the error message.

    Raises:
        InputError: A file is missing or has a different size.
    """
    for name, size in sizes.items():
        file = record.parent / name
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            problem = "is missing" if actual is None else f"has {actual} bytes, but {record.name} lists {size}"
            raise InputError(f"{file} {problem}; delete {record}, and {remedy}")
