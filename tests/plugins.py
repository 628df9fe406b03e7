"""Studies outside the package, for tests: registered inside a context and removed after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from icl_lens.artifacts import code
from icl_lens.studies import plugins, registry


@contextmanager
def added(*folders: Path | str) -> Iterator[None]:
    """Make the studies in some folders available to import, to run and to find in the registry inside the context.

    Their modules stay loaded, so that a folder has the same classes the next time it is added.
    """
    for folder in map(Path, folders):
        package = f"{plugins.__name__}.{folder.name}"
        if package in sys.modules and list(sys.modules[package].__path__) != [str(folder)]:
            for module in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
                del sys.modules[module]
    with mock.patch.dict(plugins.FOLDERS), mock.patch.dict(code.ROOTS), mock.patch.dict(os.environ):
        registry.add_plugins(folders)
        yield
