"""The record of a converted GGUF file: ``converted.json``, in the same folder as the files that it lists.

The record contains the name and hash of the source file, its quantisation, the versions of the libraries, and the size and
SHA-256 of each output file. It is written last, so a folder with a record is complete. It contains no timestamp, so the same
file and libraries give the same bytes. This module is separate from :mod:`icl_lens.hub.gguf_conversion` so that reading a
record does not import the conversion code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.hub import fetched

RECORD = "converted.json"

# A copy of the record that is moved into place together with the files. It remains when a workflow deletes its output.
RECORD_COPY = ".converted.json"


@dataclass(frozen=True)
class Converted:
    """The contents of ``converted.json``.

    Attributes:
        gguf: Name of the source file.
        sha256: SHA-256 of the source file, in hexadecimal.
        size: Size of the source file in bytes.
        architecture: Name of the architecture in ggml.
        quantisation: Quantisation of the source file, such as ``Q4_K_M``; see :class:`icl_lens.hub.gguf_files.Header`.
        libraries: Name -> version of each library that the conversion uses.
        files: Name of each output file -> ``{"size": bytes, "sha256": hexadecimal}``.
        hub: Repository of the source file if it was fetched from the Hub.
        revision: Requested revision of that repository.
        commit: Commit that the revision resolved to.
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
        """Return the record as JSON with sorted keys, which is the content of its file."""
        return json.dumps({k: v for k, v in vars(self).items() if v is not None}, indent=1, sort_keys=True) + "\n"

    def facts(self) -> dict[str, Any]:
        """Return the source of a model for its provenance.

        Returns:
            ``gguf`` (file, sha256 and quantisation) and, if the file was fetched from the Hub, ``hub`` and ``commit``.
        """
        file = {"file": self.gguf, "sha256": self.sha256, "quantisation": self.quantisation}
        return {"gguf": file, **({"hub": self.hub, "commit": self.commit} if self.hub else {})}


def read(folder: Path | str) -> Converted | None:
    """Return the record in a folder, or None if there is none because the folder was not converted from a GGUF file.

    Raises:
        InputError: The record is corrupted, or a file that it lists is missing or has a different size.
    """
    path = next((path for name in (RECORD, RECORD_COPY) if (path := Path(folder) / name).is_file()), None)
    if path is None:
        return None
    try:
        record = Converted(**json_text.loads(path.read_text(encoding="utf-8")))
        sizes = {name: int(file["size"]) for name, file in record.files.items()}
        if not (sizes and all(isinstance(v, str) for v in (record.gguf, record.sha256, record.quantisation))):
            raise ValueError("a field is missing or has the wrong type")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is corrupted; delete it, and rerun the command that wrote it to convert the file again"
        ) from error
    fetched.require_sizes(path, sizes, "rerun the command that wrote it to convert the file again")
    return record
