"""Files that the commands and the workflow read at run time: claims, page templates, and the files of the workflow itself."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from icl_lens.errors import InputError


def _folder(name: str) -> Path:
    return Path(str(resources.files(__name__) / name))


CLAIMS = _folder("claims")
"""Folder of the claims files, one ``{paper}.yaml`` per paper."""

REPORT = _folder("report")
"""Folder with the template, style sheet and scripts of the report page."""

PROJECT = _folder("project")
"""Folder with the files that ``icl-lens init`` copies to a new project."""

PUBLISH = _folder("publish")
"""Folder with the template of the page that ``icl-lens publish`` writes."""


def workflow() -> Path:
    """Return the folder with the files of the workflow.

    It contains ``Snakefile``, ``config.yaml``, ``config``, ``workflow``, ``notebooks``, ``profiles`` and ``envs``. In an
    installed wheel it is inside the package: ``setup.py`` copies these files there. In an editable installation it is the
    repository.

    Raises:
        InputError: The package was installed without these files.
    """
    repository = Path(__file__).resolve().parents[3]
    for folder in (_folder("workflow"), repository):
        if (folder / "workflow" / "Snakefile").is_file():
            return folder
    raise InputError(f"the files of the workflow are missing in {CLAIMS.parent}; reinstall icl-lens from a wheel")


def examples() -> dict[str, Path]:
    """Return the example configs by name: ``config/NAME.yaml`` in the repository.

    Raises:
        InputError: See :func:`workflow`.
    """
    return {path.stem: path for path in sorted((workflow() / "config").glob("*.yaml"))}
