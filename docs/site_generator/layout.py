"""Which files of the repository are pages of the site, and the links between them.

Documents contain links that work in the repository, for example ``../config/README.md``. On the site, a link to a document that
is a page leads to that page. A link to another file of the repository becomes plain text, unless the site has ``repo_url``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"

# Documents outside docs/ -> their address on the site. README.md is the home page.
DOCUMENTS = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "config/README.md": "config/README.md",
    "config/reference.md": "config/reference.md",
    "profiles/slurm/README.md": "profiles/slurm/README.md",
    "src/icl_lens/organism/checkpoint/README.md": "models/organism.md",
    "src/icl_lens/reader_organism/checkpoint/README.md": "models/reader.md",
}

_FENCED = r"^ {0,3}(?P<fence>```+|~~~+).*?^ {0,3}(?P=fence)[`~]*[ ]*$"
_LINK = r"(?P<mark>!?)\[(?P<shown>(?:[^\[\]]|\[[^\[\]]*\](?:\([^()\s]+\))?)*)\]\((?P<target>[^()\s]+)\)"
# Code comes first, so that links in code are not links. A link may contain code.
_CODE_OR_LINK = re.compile(rf"{_FENCED}|`[^`\n]+`|{_LINK}", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """Addresses on the site.

    Attributes:
        repo_url: Address of the repository on the web; empty if it has none.
        generated: Addresses of the generated pages.
        pictures: Address on the site -> file, of the pictures outside ``docs/`` that documents show.
    """

    repo_url: str = ""
    generated: frozenset[str] = frozenset()
    pictures: dict[str, Path] = field(default_factory=dict)

    def address(self, path: str) -> str | None:
        """Return the address on the site of a file or folder of the repository; None if it is not part of the site.

        Args:
            path: Path relative to the repository, with forward slashes.
        """
        if path in DOCUMENTS:
            return DOCUMENTS[path]
        if not path.startswith("docs/"):
            return None
        below = path.removeprefix("docs/").rstrip("/")
        for candidate in (below, f"{below}/index.md", f"{below.removesuffix('.ipynb')}.md"):
            if candidate in self.generated or ((DOCS / candidate).is_file() and not candidate.endswith((".py", ".ipynb"))):
                return candidate
        return None

    def source(self, address: str) -> str:
        """Return the path in the repository of the document with the given address."""
        return next((path for path, own in DOCUMENTS.items() if own == address), f"docs/{address}")

    def with_links(self, markdown: str, address: str) -> str:
        """Return a document with the links of the repository replaced by links of the site.

        Links in code stay unchanged, and so do links to files that do not exist, which MkDocs reports.
        """
        folder = posixpath.dirname(self.source(address))

        def replaced(found: re.Match) -> str:
            mark, shown, target = found["mark"], found["shown"], found["target"]
            if target is None:
                return found[0]
            shown = _CODE_OR_LINK.sub(replaced, shown)  # a picture that is a link
            path, hash_sign, anchor = target.partition("#")
            if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path):
                return f"{mark}[{shown}]({target})"
            path = posixpath.normpath(posixpath.join(folder, path))
            own = self.address(path)
            if own is None and mark and (REPOSITORY / path).is_file():
                own = path
                self.pictures[path] = REPOSITORY / path
            if own is not None:
                return f"{mark}[{shown}]({relative(own, address)}{hash_sign}{anchor})"
            if not (REPOSITORY / path).exists():
                return f"{mark}[{shown}]({target})"
            return f"[{shown}]({self.repo_url.rstrip('/')}/blob/main/{path})" if self.repo_url else shown

        return _CODE_OR_LINK.sub(replaced, markdown)


def relative(address: str, start: str) -> str:
    """Return a link from one page to another address."""
    return posixpath.relpath(address, posixpath.dirname(start) or ".")


def headings(markdown: str) -> Mapping[str, str]:
    """Return heading -> anchor of each heading of a document."""
    without_code = re.sub(_FENCED, "", markdown, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {heading: re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in found}
