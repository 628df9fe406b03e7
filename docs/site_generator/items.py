"""What the pages say about figures and tables: names, commands and the config that makes them."""

from __future__ import annotations

import re
from functools import cache

from icl_lens.config import parse
from icl_lens.config.keys import Config
from icl_lens.report.item_names import item_heading
from icl_lens.studies import registry
from icl_lens.studies.item import Item

from . import markdown
from .layout import REPOSITORY, relative
from .results import Picture, gemma_section, numbers, pictures

GALLERY = "gallery.md"

# Configs that a command may need, in order of preference. The first one without a file is the default config.
_CONFIGS = ("", "precision", "training-dynamics", "kernel_regression", "component_reweighting", "paper")


@cache
def _config(name: str) -> Config:
    files = ["config.yaml", *([f"config/{name}.yaml"] if name else [])]
    return parse.load(*(REPOSITORY / file for file in files))


def config_of(item: Item) -> str:
    """Return the config with which an item can be made, as a path; empty for the default config.

    Raises:
        ValueError: No config in ``config/`` makes the item.
    """
    for name in _CONFIGS:
        models, tasks = _config(name).shown(item.name)
        if not item.studies or (models and tasks):
            return f"config/{name}.yaml" if name else ""
    raise ValueError(f"no config in config/ makes {item.name}")


def command(item: Item) -> str:
    """Return the command that makes an item."""
    config = config_of(item)
    return f".venv/bin/snakemake {item.name} --cores all" + (f" --configfile {config}" if config else "")


def label(item: Item) -> str:
    """Return the name of an item for readers, for example "Table 2" for ``kr_table_2``."""
    name = item_heading(item.name).rpartition(", ")[2]
    return name[:1].upper() + name[1:]


def anchor(item: Item) -> str:
    """Return the anchor of an item in the gallery."""
    return item.name.replace("_", "-")


def link(item: Item, start: str) -> str:
    """Return a link from a page to an item in the gallery."""
    return f"[{markdown.text(label(item))}]({relative(GALLERY, start)}#{anchor(item)})"


def picture_of(item: Item, picture: Picture, start: str) -> str:
    """Return a picture of a figure with its caption."""
    alternative = re.sub(r"[$_{}\\\"\[\]]", "", item.title)
    return (
        f"![{alternative}: {picture.shows}]({relative(picture.file, start)}){{ loading=lazy }}\n\n"
        f"*{markdown.text(label(item))} for {markdown.text(picture.shows)}.*"
    )


def gallery() -> str:
    """Return each figure and table with the command that makes it and its committed picture."""
    parts = []
    for name, group in registry.groups().items():
        members = [item for item in registry.items().values() if item.group == name]
        if not members:
            continue
        parts += [f"## {markdown.text(group.heading)} {{#{name.replace('_', '-')}}}", f"Target: {markdown.code(name)}."]
        for item in members:
            parts += _entry(item)
    return "\n\n".join(parts) + "\n"


def _entry(item: Item) -> list[str]:
    heading = f"### {markdown.text(label(item))} {{#{anchor(item)}}}"
    parts = [heading, f"{markdown.title(item.title)}.", markdown.block(command(item))]
    parts += [picture_of(item, picture, GALLERY) for picture in pictures(item.name)]
    links = []
    if gemma_section(item_heading(item.name)):
        links.append(f"[numbers and claims]({gemma_section(item_heading(item.name))})")
    found = numbers(item.name)
    if found:
        links.append(f"[CSV]({found.file})")
    return [*parts, *([f"Results of Gemma 3 270M: {', '.join(links)}."] if links else [])]
