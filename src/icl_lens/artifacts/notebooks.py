"""Post-processing of an executed notebook: remove what differs between runs, and record its inputs and outputs."""

from __future__ import annotations

import hashlib
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
    """Write the stripped notebook, and a record of its inputs and outputs next to its figures.

    The function logs the output of the notebook to standard error.

    Args:
        source: The notebook in the repository.
        executed: The executed notebook.
        out: Path of the stripped notebook.
        record: Path of the JSON record. It contains ``inputs`` and ``outputs`` (name -> SHA-256), the hash of the ``notebook``,
            the hash of the ``code`` that the notebook imports from the package, and the versions of the ``libraries``.
        inputs: Files that the notebook read.
        outputs: Files that the notebook wrote.

    Raises:
        InputError: ``executed`` is not an executed notebook, or an output is missing.
    """
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{executed} is missing or is not an executed notebook") from error
    missing = [str(path) for path in outputs if not path.is_file()]
    if missing:
        raise InputError(f"{executed} did not write {', '.join(missing)}")
    for text in _stderr_texts(notebook):
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
    """Write a record of inputs and outputs next to the outputs: names relative to the results folder, and SHA-256 hashes.

    Args:
        record: Path of the JSON record.
        inputs: Files that were read.
        outputs: Files that were made from the inputs.
        more: Other facts that determine the content.
    """
    facts = {**more, "inputs": _hashes(inputs, record), "outputs": _hashes(outputs, record)}
    with whole_file(record) as temporary:
        _write_json(temporary, {**facts, "digest": record_digest(facts)}, indent=2)


def record_digest(facts: dict[str, Any]) -> str:
    """Return the SHA-256 of the facts of a record, without the digest itself, so that a later change of the record is found."""
    hashed = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def strip_run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Remove what differs between runs from a notebook, so that the same run gives the same bytes.

    The function removes times, durations and random cell ids. It also removes standard error, because the messages of libraries
    depend on the machine (for example, matplotlib reports when it builds its font cache). It joins consecutive pieces of
    standard output, because their number depends on timing.
    """
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = _join_streams(output for output in cell["outputs"] if output.get("name") != "stderr")
    return notebook


def _join_streams(outputs: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs of one cell, with consecutive outputs of the same stream joined into one."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
            text = "".join([*joined[-1]["text"], *output["text"]])
            joined[-1] = {**output, "text": text.splitlines(keepends=True)}
        else:
            joined.append(output)
    return joined


def _stderr_texts(notebook: dict[str, Any]) -> Iterator[str]:
    """Yield the texts that the cells wrote to standard error."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                yield "".join(output["text"])


def _hashes(paths: Sequence[Path], record: Path) -> dict[str, str]:
    return dict(sorted((hashes.artifact_name(path, record), hashes.file_hash(path)) for path in paths))


def _write_json(path: Path, content: dict[str, Any], indent: int) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
