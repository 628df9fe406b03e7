"""Names of figures and tables for readers."""

from __future__ import annotations

_PAPERS = {"kr": "Kernel regression", "cr": "Component re-weighting", "rc": "Representation change"}


def item_heading(item: str) -> str:
    """Return the heading of an item, for example "Kernel regression, table 2" for ``kr_table_2``."""
    prefix, _, rest = item.partition("_")
    paper = _PAPERS.get(prefix)
    words = (rest if paper else item).replace("_", " ")
    return f"{paper}, {words.replace('rsa', 'RSA')}" if paper else words.capitalize()
