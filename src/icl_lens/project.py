"""A new folder with the files of a project: a config, and a Snakefile that includes the workflow of the package."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from icl_lens import resources
from icl_lens.artifacts.files import writing
from icl_lens.errors import InputError
from icl_lens.studies import plugins, registry

EXAMPLE = "recency"
"""The study in ``examples/`` that a new study starts from."""

STUDIES = "studies"
"""Folder of a project's own studies."""


def create(folder: Path, study: str | None = None) -> list[str]:
    """Create the files of a project.

    Args:
        folder: The folder of the project: a new or an empty folder.
        study: Name of a study of one's own. The project then contains a copy of the study :data:`EXAMPLE` with this name.

    Returns:
        The names of the files and folders in the project.

    Raises:
        InputError: The folder is a file, is not empty or cannot be written, or the name is not valid or is taken.
    """
    _require_empty(folder)
    if study is not None:
        _require_free(study)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # The files are moved when all of them are written, so that an error leaves no part of a project behind.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            _fill(Path(temporary), study)
            for path in sorted(Path(temporary).iterdir()):
                path.rename(folder / path.name)
    return sorted(path.name for path in folder.iterdir())


def _require_empty(folder: Path) -> None:
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"folder {folder} is not empty; specify a new or an empty folder")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; specify a new or an empty folder")


def _require_free(study: str) -> None:
    if not plugins.is_valid_name(study):
        raise InputError(
            f"--study: {study!r} is not a valid study name; start with a lower-case letter, and use lower-case letters, digits "
            "and underscores"
        )
    if study in (*registry.studies(), *registry.groups()) or plugins.is_reserved_name(study):
        raise InputError(f"--study: the name {study!r} is taken; specify another name")


def _fill(folder: Path, study: str | None) -> None:
    workflow = resources.workflow()
    for path in sorted(resources.PROJECT.iterdir()):
        shutil.copyfile(path, folder / (".gitignore" if path.name == "gitignore" else path.name))
    shutil.copytree(
        workflow / "profiles", folder / "profiles", ignore=shutil.ignore_patterns("*.md"), copy_function=shutil.copyfile
    )
    if study is None:
        return
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("plugins: []", f"plugins: [{STUDIES}/{study}]"), encoding="utf-8")
    (folder / STUDIES / study).mkdir(parents=True)
    for path in sorted((workflow / "examples" / EXAMPLE).iterdir()):
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace(EXAMPLE, study)
            (folder / STUDIES / study / path.name.replace(EXAMPLE, study)).write_text(text, encoding="utf-8")
