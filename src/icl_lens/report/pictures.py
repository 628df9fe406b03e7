"""Compression of SVG pictures for embedding in the report page. The SVG files in the results folder are left unchanged."""

from __future__ import annotations

import re
from urllib.parse import quote

from markupsafe import Markup

# Characters that need no escaping in a data URI between double quotes.
_UNQUOTED = " !$'()*+,-./:;=?@[]_{|}~"


def data_uri(svg: str) -> Markup:
    """Return an SVG as a data URI that is escaped for use between double quotes in HTML."""
    return Markup("data:image/svg+xml," + quote(lean(svg), safe=_UNQUOTED))


def lean(svg: str) -> str:
    """Return the same picture at about half the size in bytes.

    Coordinates are truncated to tenths of a point, which is not visible. Each style is written once, as a class. Content that
    is not drawn (metadata, names of groups, line breaks) is removed.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE.*?>|<\?xml.*?\?>", "", svg, flags=re.DOTALL)
    classes: dict[str, str] = {}
    svg = re.sub(r'style="([^"]*)"', lambda style: f'class="{classes.setdefault(style[1], f"s{len(classes)}")}"', svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)  # texts keep their numbers
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"> <", "><", svg)
    # Path commands need no surrounding spaces.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r" ?\b([LMQCz])\b ?", r"\1", path[0]), svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    # Single quotes need no escaping in the data URI.
    svg = re.sub(r"<[^>']*>", lambda tag: tag[0].replace('"', "'"), svg)
    return svg.replace("</style>", f"{rules}</style>", 1).strip()
