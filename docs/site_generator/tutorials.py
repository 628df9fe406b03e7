"""Pages of the notebooks in ``docs/tutorials/``, with their committed outputs."""

from __future__ import annotations

import re
from functools import cache

import nbformat
from nbconvert import MarkdownExporter

from . import markdown
from .layout import DOCS

FOLDER = "tutorials"
INDEX = f"{FOLDER}/index.md"


@cache
def pages() -> dict[str, str | bytes]:
    """Return address -> content of each page, and of each picture in it; empty if there are no notebooks."""
    found: dict[str, str | bytes] = {}
    entries = []
    for path in sorted((DOCS / FOLDER).glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, resources={"unique_key": path.stem, "output_files_dir": path.stem}
        )
        found[f"{FOLDER}/{path.stem}.md"] = _page(text, path.name)
        for name, content in resources.get("outputs", {}).items():
            found[f"{FOLDER}/{name}"] = content
        heading = re.search(r"^# (.*)$", text, re.MULTILINE)
        if heading is None:
            raise ValueError(f"docs/{FOLDER}/{path.name} has no heading; begin its first cell with '# '")
        entries.append(f"- [{heading[1]}]({path.stem}.md)")
    if entries:
        intro = "Each tutorial is a notebook that runs on the embedded model. It needs no download and no GPU."
        found[INDEX] = f"# Tutorials\n\n{intro}\n\n" + "\n".join(entries) + "\n"
    return found


def _page(text: str, name: str) -> str:
    """Return the Markdown of a notebook, with a line that says where it is."""
    text = re.sub(r"<style scoped>.*?</style>\s*", "", text, flags=re.DOTALL)  # pandas sets the style of each table
    where = f"This page is the notebook {markdown.code(f'docs/{FOLDER}/{name}')} with its outputs."
    return re.sub(r"^(# .*)$", lambda found: f"{found[1]}\n\n{where}", text, count=1, flags=re.MULTILINE)
