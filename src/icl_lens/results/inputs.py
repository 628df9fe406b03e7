"""Inputs outside a results folder: data files, models, encoders, notebooks, and the parts of the report page.

An artifact records the hash of each of its inputs, but no local path, so that its bytes do not depend on the machine. The file
``inputs.json`` in the results folder has the paths, relative to this folder. The audit uses it to find the inputs and to
compare their content with the recorded hashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from icl_lens import json_text
from icl_lens.artifacts import hashes
from icl_lens.artifacts.code import code_hash
from icl_lens.artifacts.files import whole_file
from icl_lens.errors import InputError
from icl_lens.hub.adapters import CONFIG, adapter_hash
from icl_lens.hub.checkpoints import checkpoint_hash

FILE = "inputs.json"


@dataclass(frozen=True)
class ExternalInputs:
    """The paths of the inputs of a results folder.

    Attributes:
        models: Name of a model -> folder.
        adapters: Name of a model -> folder of its adapter.
        encoders: Name of an encoder -> folder.
        texts: Task -> name of an input as the corpora table records it, such as ``train: train.csv`` -> file.
        notebooks: Item -> notebook.
        page: Name of a template or claims file of the report page -> file.
    """

    models: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    notebooks: dict[str, str] = field(default_factory=dict)
    page: dict[str, str] = field(default_factory=dict)


def write(results: Path | str, inputs: ExternalInputs) -> None:
    """Add the paths of a run's inputs to ``inputs.json``. Paths of earlier runs in the same folder are kept.

    Args:
        results: The results folder.
        inputs: The paths, absolute or relative to the working folder.

    Raises:
        InputError: The existing file is corrupted.
    """
    results = Path(results)
    known, added = vars(read(results)), vars(_map_paths(inputs, lambda path: _relative(path, results)))
    merged = {kind: {**known[kind], **added[kind]} for kind in known}
    text = json.dumps(merged, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = results / FILE
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(results: Path | str) -> ExternalInputs:
    """Return the paths in ``inputs.json`` as written there; empty if there is no such file.

    Raises:
        InputError: The file is corrupted.
    """
    path = Path(results) / FILE
    try:
        content = json_text.loads(path.read_bytes())
        inputs = ExternalInputs(**content)
        _map_paths(inputs, Path)
    except FileNotFoundError:
        return ExternalInputs()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is corrupted; delete it, and rerun the snakemake command that created the folder") from error
    return inputs


class Comparison:
    """Comparison of the inputs of a results folder with the hashes that its artifacts record. Each input is read once.

    Args:
        results: The results folder.

    Attributes:
        file_hash: Function that returns the hash of a file. Thousands of tables can be made from the same prompts.
        code_hash: Function that returns the hash of the installed code of some modules.

    Raises:
        InputError: ``inputs.json`` is corrupted.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.paths = read(results)
        self.file_hash = cache(hashes.file_hash)
        self.code_hash = cache(code_hash)
        self._models: dict[Path, str | InputError] = {}

    def changed(self, name: str, facts: Mapping[str, Any]) -> Iterator[str]:
        """Yield each input of an artifact that has changed since the artifact was made.

        Inputs whose path is unknown or does not exist are skipped, see :meth:`unlisted` and :meth:`missing`.

        Args:
            name: Path of the artifact relative to the results folder.
            facts: Metadata of the table, or the record of a figure, a summary table or the report.

        Raises:
            InputError: A file of a fetched or converted model differs from its record.
        """
        for title, path, digest, is_folder in self._recorded(name, facts):
            compare = self._folder_changed if is_folder else self._file_changed
            if path and compare(self._locate(path), digest):
                yield f"{title} ({self._locate(path)})" if is_folder else str(self._locate(path))

    def unlisted(self, name: str, facts: Mapping[str, Any]) -> Iterator[str]:
        """Yield each input of an artifact, see :meth:`changed`, whose path is not in ``inputs.json``."""
        yield from (title for title, path, *_ in self._recorded(name, facts) if not path)

    def _recorded(self, name: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str, bool]]:
        """Yield the title, path (None if unknown) and recorded hash of each input, and whether it is a folder."""
        stage, stem = Path(name).parts[0], Path(name).stem
        if stage == "corpora":
            files = self.paths.texts.get(stem, {})
            yield from ((f"task {stem}, {label}", files.get(label), digest, False) for label, digest in facts["inputs"].items())
        model = facts.get("model") or {}
        checkpoint = model.get("files") or (model.get("weights") or {}).get("architecture_of")
        if stage != "training" and checkpoint:
            yield f"model {model.get('name')}", self.paths.models.get(model.get("name")), checkpoint, True
        if adapter := model.get("adapter"):
            yield f"adapter of model {model['name']}", self.paths.adapters.get(model["name"]), adapter["files"], True
        for encoder, digest in (facts.get("encoders") or {}).items():
            yield f"encoder {encoder}", self.paths.encoders.get(encoder), digest, True
        for notebook, digest in (facts.get("notebook") or {}).items():
            yield f"notebook {notebook}", self.paths.notebooks.get(stem), digest, False
        for part, digest in (facts.get("page") or {}).items():
            yield f"{part} of the report page", self.paths.page.get(part), digest, False

    def missing(self) -> list[str]:
        """Return the inputs in ``inputs.json`` that do not exist, so that they cannot be compared."""
        paths: list[Path] = []
        _map_paths(self.paths, lambda path: paths.append(self._locate(path)))
        return sorted({str(path) for path in paths if not path.exists()})

    def _locate(self, path: str) -> Path:
        # Messages have the path relative to the working folder if the results folder is given so.
        results = self.results.resolve()
        located = Path(os.path.normpath(results / path))
        return located if self.results.is_absolute() else Path(os.path.relpath(located))

    def _file_changed(self, path: Path, recorded: str) -> bool:
        return path.is_file() and hashes.cached_file_hash(path) != recorded

    def _folder_changed(self, folder: Path, recorded: str) -> bool:
        if not folder.is_dir():
            return False
        if folder not in self._models:
            self._models[folder] = _content_hash(folder)
        current = self._models[folder]
        if isinstance(current, InputError):
            raise current
        return current != recorded


def _content_hash(folder: Path) -> str | InputError:
    try:
        return adapter_hash(folder) if (folder / CONFIG).is_file() else checkpoint_hash(folder)
    except InputError as error:
        return error


def _relative(path: str | Path, results: Path) -> str:
    # The results folder may be a link. Its target is the same for all names of the folder.
    return Path(os.path.relpath(Path(path).absolute(), results.resolve())).as_posix()


def _map_paths(inputs: ExternalInputs, change: Any) -> ExternalInputs:
    """Return the inputs with a function applied to each path."""
    return ExternalInputs(
        **{
            kind: {
                str(name): {str(label): change(file) for label, file in path.items()} if kind == "texts" else change(path)
                for name, path in paths.items()
            }
            for kind, paths in vars(inputs).items()
        }
    )
