"""After a notebook has run: take out what differs from run to run, and record what it was made from and what it made."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from icl_lens.artifacts import hashes
from icl_lens.artifacts.code import notebook_hash
from icl_lens.artifacts.files import whole_file
from icl_lens.artifacts.provenance import library_versions
from icl_lens.errors import InputError

logger = logging.getLogger(__name__)


def record(source: Path, executed: Path, out: Path, record: Path, inputs: list[Path], outputs: list[Path]) -> None:
    """Write the stripped notebook and, beside the pictures, the hashes of inputs and outputs.

    What the notebook wrote to standard error is logged.

    Args:
        source: The notebook as it stands in the repository.
        executed: The same as it was executed.
        out: Where the stripped one goes.
        record: The JSON file: ``inputs`` and ``outputs`` (name -> SHA-256), the hash of the ``notebook`` and of the package's
            ``code`` it imports, and the ``libraries`` that drew.
        inputs: What the notebook read.
        outputs: What it wrote.

    Raises:
        InputError: The notebook is not one, or it did not write an output.
    """
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{executed} is not an executed notebook") from error
    absent = [str(path) for path in outputs if not path.is_file()]
    if absent:
        raise InputError(f"{executed} did not write {', '.join(absent)}")
    for text in _errors(notebook):
        logger.warning("%s wrote to standard error: %s", source.name, text.rstrip())
    with whole_file(out) as temporary:
        _write_json(temporary, strip_run(notebook), indent=1)
    write_record(
        record,
        inputs=inputs,
        outputs=[*outputs, out],
        notebook={source.name: hashes.file_hash(source)},
        code=notebook_hash(source),
        libraries=library_versions(),
    )


def write_record(record: Path, inputs: Sequence[Path], outputs: Sequence[Path], **more: Any) -> None:
    """Write the record of what was read and made, beside what was made: names below the results folder and SHA-256.

    Args:
        record: The JSON file.
        inputs: What was read.
        outputs: What was made of it.
        more: What else decides the content.
    """
    facts = {**more, "inputs": _hashes(inputs, record), "outputs": _hashes(outputs, record)}
    with whole_file(record) as temporary:
        _write_json(temporary, facts, indent=2)


def strip_run(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook without what differs from run to run, so that the same run gives the same bytes.

    Times, durations and random cell ids go. So does standard error: what libraries say there depends on the machine
    (matplotlib, for one, says when it lists the fonts for the first time). Standard output arrives in as many pieces as there
    is time for; they are joined.
    """
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = _joined(output for output in cell["outputs"] if output.get("name") != "stderr")
    return notebook


def _joined(outputs: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs of one cell, where what follows one another in a stream is one output."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
            text = "".join([*joined[-1]["text"], *output["text"]])
            joined[-1] = {**output, "text": text.splitlines(keepends=True)}
        else:
            joined.append(output)
    return joined


def _errors(notebook: dict[str, Any]) -> Iterator[str]:
    """What the cells wrote to standard error."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                yield "".join(output["text"])


def _hashes(paths: Sequence[Path], record: Path) -> dict[str, str]:
    return dict(sorted((hashes.artifact_name(path, record), hashes.file_hash(path)) for path in paths))


def _write_json(path: Path, content: dict[str, Any], indent: int) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
