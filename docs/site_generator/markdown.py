"""Markdown of generated pages: escaped texts, tables, and equations as MathML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from latex2mathml.converter import convert

# Characters with a meaning in Markdown, in its extensions or in HTML. They become character references, which stay unchanged.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>&|$~^#!=\"']|(?<=^)[-+:.]|(?<=^\d)[.)]")


def text(value: object) -> str:
    """Return a text on one line, escaped for Markdown and HTML."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(str(value).split()))


def title(value: str) -> str:
    """Return the title of a figure or table, escaped except for its equations between dollar signs."""
    parts = re.split(r"(\$[^$]+\$)", value)
    return "".join(part if part.startswith("$") else _escaped_part(part) for part in parts)


def _escaped_part(value: str) -> str:
    """Return a part of a line, escaped; the spaces at its ends are kept."""
    return re.sub(r"\S(?:.*\S)?", lambda found: text(found[0]), value)


def code(value: object) -> str:
    """Return a text as inline code."""
    return f"<code>{text(value)}</code>"


def prose(value: str) -> str:
    """Return a text on one line, escaped; its parts in backticks become code."""
    parts = re.split(r"`([^`]+)`", " ".join(value.split()))
    return "".join(code(part) if number % 2 else _escaped_part(part) for number, part in enumerate(parts))


def block(value: str, language: str = "") -> str:
    """Return a fenced block of code. The fence is longer than any sequence of backticks in the code."""
    longest = max((len(found) for found in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. The cells are Markdown without line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def indented(value: str, spaces: int = 4) -> str:
    """Return a text with each non-empty line indented."""
    return "\n".join(f"{' ' * spaces}{line}" if line else "" for line in value.splitlines())


def with_math(content: str) -> str:
    """Return the HTML of a page with its equations, as marked by the extension ``arithmatex``, as MathML.

    Browsers show MathML themselves, so the page needs no script and no font for its equations.
    """
    inline = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda found: _mathml(found[1], "inline"), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda found: f'<div class="equation" tabindex="0">{_mathml(found[1], "block")}</div>',
        inline,
        flags=re.DOTALL,
    )


def without_roles(content: str) -> str:
    """Return the HTML of a page in which references of docstrings, such as ``:class:`~icl_lens.Model```, are code."""
    role = r":(?:attr|class|data|exc|func|meth|mod|obj):<code>(?:~[^<]*\.)?([^<]*)</code>"
    return re.sub(role, r"<code>\1</code>", content)


def with_breaks(content: str) -> str:
    """Return the HTML of a page in which names in tables may break after a dot, a slash or an underscore."""

    def broken(found: re.Match) -> str:
        return found[1] + re.sub(r"(?:[./_]|&#95;)+(?=[A-Za-z*])", lambda mark: f"{mark[0]}<wbr>", found[2]) + found[3]

    return re.sub(r"<td.*?</td>", lambda cell: re.sub(r"(<code>)([^<]*)(</code>)", broken, cell[0]), content, flags=re.DOTALL)


def _mathml(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)
