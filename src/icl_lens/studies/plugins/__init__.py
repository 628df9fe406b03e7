"""Studies outside the package. Each folder listed under ``plugins`` in the config becomes a subpackage of this package.

A process registers the folders in the environment variable :data:`VARIABLE` when it imports this package. All jobs of a run and
all notebooks can therefore import a plugin by the same name, ``icl_lens.studies.plugins.NAME``.
"""

from __future__ import annotations

import keyword
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from icl_lens.artifacts import code
from icl_lens.errors import InputError

VARIABLE = "ICL_LENS_PLUGINS"
"""Environment variable with the absolute paths of the folders, separated as in ``PATH``."""

FOLDERS: dict[str, Path] = {}
"""Name -> folder of each plugin registered in this process."""


def add(folders: Iterable[Path | str]) -> None:
    """Make the studies in some folders importable in this process and in its child processes.

    Args:
        folders: Folders that contain a ``study.py``. The name of the folder is the name of the study.

    Raises:
        InputError: A folder is missing or contains no study.py, its path contains the path separator, or its name is not a
            valid study name, is reserved, or is the name of another plugin.
    """
    for given in folders:
        folder = Path(given).absolute()
        name = folder.name
        if not folder.is_dir():
            raise InputError(f"plugins: {given} is not a folder; give a folder that contains a study.py")
        if not (folder / "study.py").is_file():
            raise InputError(f"plugins: {given} contains no study.py; see docs/extending.md for the files of a study")
        if not is_valid_name(name):
            raise InputError(
                f"plugins: {given}: {name!r} is not a valid study name; rename the folder (lower-case letters, digits and "
                "underscores, starting with a letter, and not a Python keyword)"
            )
        if os.pathsep in str(folder):
            raise InputError(f"plugins: {given}: the path contains {os.pathsep!r}, the separator of folders; move the folder")
        if name in _RESERVED_NAMES:
            raise InputError(f"plugins: {given}: the name {name!r} is taken by a module of icl-lens; rename the folder")
        if FOLDERS.get(name, folder).resolve() != folder.resolve():
            raise InputError(f"plugins: {given} and {FOLDERS[name]} have the same name; rename one of the folders")
        FOLDERS[name] = folder
        module = f"{__name__}.{name}"
        code.ROOTS[module] = folder
        if module not in sys.modules:
            package = ModuleType(module, f"Study {name}.")
            package.__path__ = [str(folder)]
            package.__package__ = module
            sys.modules[module] = package
            setattr(sys.modules[__name__], name, package)
    os.environ[VARIABLE] = os.pathsep.join(map(str, FOLDERS.values()))


def is_valid_name(name: str) -> bool:
    """Return whether a folder with this name can be a study: it is a valid name of a module in lower case."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not keyword.iskeyword(name)


def is_reserved_name(name: str) -> bool:
    """Return whether a module of icl-lens has this name."""
    return name in _RESERVED_NAMES


# A plugin's package becomes an attribute of this module, so it must not replace an existing attribute.
_RESERVED_NAMES = frozenset(globals())

if os.environ.get(VARIABLE):
    add(os.environ[VARIABLE].split(os.pathsep))
