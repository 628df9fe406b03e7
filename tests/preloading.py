"""The script of the preloaded process with other libraries, for tests that need not wait for the real ones."""

import re
from collections.abc import Iterable
from pathlib import Path

from icl_lens.cli import preloaded


def script_with(libraries: Iterable[str]) -> str:
    """Return the source of ``cli/preloaded.py`` with ``LIBRARIES`` replaced."""
    source = Path(preloaded.__file__).read_text(encoding="utf-8")
    changed, count = re.subn(r"^LIBRARIES = \([^)]*\)", f"LIBRARIES = {tuple(libraries)!r}", source, flags=re.MULTILINE)
    assert count == 1
    return changed
