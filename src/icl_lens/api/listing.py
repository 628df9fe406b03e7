"""The list of all studies, and the registration of a study of the user."""

from __future__ import annotations

from pathlib import Path

from icl_lens import api
from icl_lens.errors import InputError
from icl_lens.studies import registry
from icl_lens.studies.folders import packages


def list_studies() -> dict[str, str]:
    """Return the name of each study and what it measures, including the studies of the user that are registered.

    The function of a study has its name: ``icl_lens.saliency``.

    Raises:
        InputError: A registered study of the user violates the contract.
    """
    return {name: study.help for name, study in registry.studies().items()}


def add_study(folder: str | Path) -> str:
    """Register a study of the user, so that ``icl_lens`` has a function with its name.

    Args:
        folder: The folder of the study, with its ``study.py`` and ``compute.py``; see docs/extending.md.

    Returns:
        The name of the study, which is the name of the folder.

    Raises:
        InputError: The folder is not a valid study, or its name is taken.
    """
    name = Path(folder).absolute().name
    package = Path(api.__file__).parents[1]
    taken = {*api.PLACES, *api.SHORT_NAMES, *packages(), *(path.stem for path in package.iterdir())}
    if name in taken:
        raise InputError(f"{folder}: the name {name!r} is taken by icl_lens.{name}; rename the folder")
    registry.add_plugins([folder])
    return name
