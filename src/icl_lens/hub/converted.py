"""The record of a converted GGUF file: ``converted.json``, in the same folder as the files that it names.

It says which file was converted, how that was quantised, with which libraries, and the size and SHA-256 of each file that was
made. It is written last, so that its presence says that the folder is complete, and it holds no time, so that the same file and
libraries give the same bytes. Kept apart from :mod:`icl_lens.hub.gguf_conversion` so that a reader needs nothing of how files
are converted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_lens.errors import InputError
from icl_lens.hub import fetched

RECORD = "converted.json"

# The same record, moved into place together with the files: it survives when a workflow deletes its output.
KEPT = ".converted.json"


@dataclass(frozen=True)
class Converted:
    """What ``converted.json`` says.

    Attributes:
        gguf: The name of the file that was converted.
        sha256: SHA-256 of its bytes, in hexadecimal.
        size: Its bytes.
        architecture: As ggml names it.
        quantisation: Such as ``Q4_K_M``, see :class:`icl_lens.hub.gguf_files.Header`.
        libraries: Name -> version of what converted it.
        files: Name of each file made -> ``{"size": bytes, "sha256": hexadecimal}``.
        hub: The repository that it comes from, if it was fetched.
        revision: The revision that was asked for there.
        commit: The commit that it was.
    """

    gguf: str
    sha256: str
    size: int
    architecture: str
    quantisation: str
    libraries: dict[str, str]
    files: dict[str, dict[str, Any]]
    hub: str | None = None
    revision: str | None = None
    commit: str | None = None

    def text(self) -> str:
        """The record as it is written: JSON, keys sorted."""
        return json.dumps({k: v for k, v in vars(self).items() if v is not None}, indent=1, sort_keys=True) + "\n"

    def facts(self) -> dict[str, Any]:
        """What a model's provenance says of its source: ``gguf`` (file, sha256, quantisation), and ``hub`` and ``commit``."""
        file = {"file": self.gguf, "sha256": self.sha256, "quantisation": self.quantisation}
        return {"gguf": file, **({"hub": self.hub, "commit": self.commit} if self.hub else {})}


def read(folder: Path | str) -> Converted | None:
    """The record in a folder; None where there is none, because the folder was not made of a GGUF file.

    Raises:
        InputError: It is damaged, or a file that it names is absent or of another size.
    """
    path = next((path for name in (RECORD, KEPT) if (path := Path(folder) / name).is_file()), None)
    if path is None:
        return None
    try:
        record = Converted(**json.loads(path.read_text(encoding="utf-8")))
        sizes = {name: int(file["size"]) for name, file in record.files.items()}
        if not (sizes and all(isinstance(v, str) for v in (record.gguf, record.sha256, record.quantisation))):
            raise ValueError("a part of it is missing")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged; delete it, and the command that wrote it converts the file again") from error
    fetched.require_sizes(path, sizes, "the command that wrote it converts the file again")
    return record
