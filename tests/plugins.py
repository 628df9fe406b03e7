"""Studies outside the package, for tests: known inside a block and forgotten after it."""

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
    """The studies in some folders can be imported, run and found by the registry inside.

    Their modules stay loaded, so that the same folder has the same classes the next time.
    """
    for folder in map(Path, folders):
        package = f"{plugins.__name__}.{folder.name}"
        if package in sys.modules and list(sys.modules[package].__path__) != [str(folder)]:
            for module in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
                del sys.modules[module]
    with mock.patch.dict(plugins.FOLDERS), mock.patch.dict(code.ROOTS), mock.patch.dict(os.environ):
        registry.add_plugins(folders)
        yield
