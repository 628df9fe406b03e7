"""Studies outside the package: each folder named by ``plugins`` in the config is a package below this one.

A process that starts with their folders in the environment variable :data:`VARIABLE` knows them from the start, so that every
job of a run and every notebook can import them by the same name, ``icl_lens.studies.plugins.NAME``.
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
"""The folders, absolute, separated as in ``PATH``."""

FOLDERS: dict[str, Path] = {}
"""Name -> folder of each plugin that this process knows."""


def add(folders: Iterable[Path | str]) -> None:
    """Make the studies in some folders importable, here and in processes that this one starts.

    Args:
        folders: Each holds a ``study.py``; its own name is the study's.

    Raises:
        InputError: A folder is absent or holds no study.py, or its name cannot be a study's or is taken by another plugin.
    """
    for given in folders:
        folder = Path(given).absolute()
        name = folder.name
        if not folder.is_dir():
            raise InputError(f"plugins: {given} is not a folder; name a folder that holds a study.py")
        if not (folder / "study.py").is_file():
            raise InputError(f"plugins: {given} holds no study.py; docs/extending.md says what a study's folder holds")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
            raise InputError(
                f"plugins: {given}: {name!r} cannot be a study's name; a folder's name has lower-case letters, digits and "
                "underscores, begins with a letter, and is no keyword of Python"
            )
        if os.pathsep in str(folder):
            raise InputError(
                f"plugins: {given}: its path has a {os.pathsep!r} in it, which separates folders; move it elsewhere"
            )
        if name in _OWN_NAMES:
            raise InputError(f"plugins: {given}: {name!r} is a name that icl-lens uses itself; rename the folder")
        if FOLDERS.get(name, folder).resolve() != folder.resolve():
            raise InputError(f"plugins: {given} and {FOLDERS[name]} have the same name; rename one of the folders")
        FOLDERS[name] = folder
        module = f"{__name__}.{name}"
        code.ROOTS[module] = folder
        if module not in sys.modules:
            package = ModuleType(module, f"The study in {name}.")
            package.__path__ = [str(folder)]
            package.__package__ = module
            sys.modules[module] = package
            setattr(sys.modules[__name__], name, package)
    os.environ[VARIABLE] = os.pathsep.join(map(str, FOLDERS.values()))


# A plugin's package is an attribute of this module, so it must not replace another one.
_OWN_NAMES = frozenset(globals())

if os.environ.get(VARIABLE):
    add(os.environ[VARIABLE].split(os.pathsep))
