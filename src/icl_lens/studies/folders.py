"""Names of the studies in this package, from its folders. This module imports no library, for a fast ``import icl_lens``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_PACKAGE = __name__.rpartition(".")[0]


@cache
def packages() -> dict[str, str]:
    """Return name -> package of each study in this package, determined without imports."""
    folders = sorted(path.parent for path in _FOLDER.glob("*/*/study.py") if path.parent.parent.name != "plugins")
    return {folder.name: f"{_PACKAGE}.{folder.parent.name}.{folder.name}" for folder in folders}
