"""Hooks of MkDocs: add the generated pages and the documents outside ``docs/``, adapt links, and convert equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from icl_lens.errors import InputError
from site_generator import api, command_line, items, markdown, papers, tutorials
from site_generator.layout import DOCUMENTS, REPOSITORY, Layout

# Documents that contain GENERATED -> the content that replaces it.
GENERATED = "<!-- generated -->"
CONTENTS: dict[str, Callable[[], str]] = {
    items.GALLERY: items.gallery,
    papers.INDEX: papers.index,
    "reference/command-line.md": command_line.page,
    api.ADDRESS: api.page,
}

_LAYOUT = Layout()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation."""
    global _LAYOUT
    generated = frozenset([*papers.pages(), *tutorials.pages()])
    _LAYOUT = Layout(repo_url=config.repo_url or "", generated=generated)
    notebooks = [address for address in tutorials.pages() if address.endswith(".md") and address != tutorials.INDEX]
    added = {papers.INDEX: list(papers.pages()), tutorials.INDEX: notebooks}
    config.nav = [entry for entry in (_completed(entry, added) for entry in config.nav or []) if entry]
    return config


def _completed(entry: Any, added: dict[str, list[str]]) -> Any:
    """Return an entry of the navigation with the generated pages of its section; None if the section has no pages."""
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if not isinstance(value, list):
        return entry
    pages = [page for page in (_completed(each, added) for each in value) if page]
    first = next(iter(pages[0].values())) if pages and isinstance(pages[0], dict) else ""
    if not isinstance(first, str):
        return {title: pages}
    if first == tutorials.INDEX and not tutorials.pages():
        return None
    return {title: [*pages, *added.get(first, [])]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the documents outside ``docs/``, and the pictures that these show."""
    for address, content in {**papers.pages(), **tutorials.pages()}.items():
        files.append(File.generated(config, address, content=content))
    for path, address in DOCUMENTS.items():
        files.append(File.generated(config, address, abs_src_path=str(REPOSITORY / path)))
        _LAYOUT.with_links((REPOSITORY / path).read_text(encoding="utf-8"), address)
    for address, picture in _LAYOUT.pictures.items():
        files.append(File.generated(config, address, abs_src_path=str(picture)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the links of the repository by links of the site, and add generated content, which has links of the site.

    A notebook, whose page is generated, has links of the repository.
    """
    address = page.file.src_uri
    if page.parent is None:  # the navigation of a page without a section would contain only this page
        page.meta.setdefault("hide", ["navigation"])
    if address in _LAYOUT.generated and not address.startswith(f"{tutorials.FOLDER}/"):
        return text
    text = _LAYOUT.with_links(text, address)
    if address not in CONTENTS:
        return text
    if GENERATED not in text:
        raise PluginError(f"docs/{address} has no line {GENERATED}; add it where the generated content belongs")
    try:
        return text.replace(GENERATED, CONTENTS[address]())
    except (InputError, api.MissingDocstringError, ValueError) as error:
        raise PluginError(str(error)) from error


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the equations to MathML and the references of docstrings to code, and let names in tables break."""
    return markdown.with_breaks(markdown.without_roles(markdown.with_math(content)))
