"""SVG pictures made small enough that a page can hold all of them; the files beside the page stay as they were drawn."""

from __future__ import annotations

import re
from urllib.parse import quote

from markupsafe import Markup

# What may stand as it is in a data URI between double quotes.
_UNQUOTED = " !$'()*+,-./:;=?@[]_{|}~"


def data_uri(svg: str) -> Markup:
    """An SVG as a data URI, ready to stand between double quotes in HTML: all that would mean something there is quoted."""
    return Markup("data:image/svg+xml," + quote(lean(svg), safe=_UNQUOTED))


def lean(svg: str) -> str:
    """The same picture in about half the bytes.

    Coordinates are cut to tenths of a point, which nobody sees; each style is written once, as a class; what is not drawn
    (metadata, names of groups, line breaks) is left out.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE.*?>|<\?xml.*?\?>", "", svg, flags=re.DOTALL)
    classes: dict[str, str] = {}
    svg = re.sub(r'style="([^"]*)"', lambda style: f'class="{classes.setdefault(style[1], f"s{len(classes)}")}"', svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)  # texts keep their numbers
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"> <", "><", svg)
    # In a path, a command needs no blank beside it.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r" ?\b([LMQCz])\b ?", r"\1", path[0]), svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    # Single quotes need no quoting where the picture goes.
    svg = re.sub(r"<[^>']*>", lambda tag: tag[0].replace('"', "'"), svg)
    return svg.replace("</style>", f"{rules}</style>", 1).strip()
