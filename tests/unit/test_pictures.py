"""Tests of the compression of SVG pictures, which keeps the same shapes, texts and styles."""

import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot

from icl_lens.report import figures, pictures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    figures.use_style()
    figure, axes = pyplot.subplots()
    axes.plot([0.123456, 1, 2], [3, 1.987654, 5], linewidth=0.75, alpha=0.45)
    axes.imshow(np.arange(4).reshape(2, 2))
    axes.set_title('says "a  b" & it\'s <this>, 0.98765')
    path = tmp_path_factory.mktemp("drawn") / "x.svg"
    figure.savefig(path)
    pyplot.close(figure)
    return path.read_text()


def elements(svg):
    """Return the tag, text and style of each drawn element, in order, and all numbers of paths and positions."""
    root = ElementTree.fromstring(svg)
    rules = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", svg))
    found, numbers = [], []
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("metadata", "date", "RDF", "Work", "type", "format", "creator", "Agent", "title", "style"):
            continue
        found.append((tag, (element.text or "").strip(), element.get("style") or rules.get(element.get("class"))))
        numbers += map(float, re.findall(r"-?\d+(?:\.\d+)?", " ".join(element.get(key) or "" for key in ("d", "x", "y"))))
    return found, np.array(numbers)


def test_a_lean_picture_has_the_same_shapes_texts_and_styles_in_fewer_bytes(drawn):
    lean = pictures.lean(drawn)
    (before, places), (after, lean_places) = elements(drawn), elements(lean)
    assert before == after
    assert ("text", 'says "a  b" & it\'s <this>, 0.98765') in [(tag, text) for tag, text, _ in after]
    assert np.abs(places - lean_places).max() < 0.1
    assert len(lean) < 0.7 * len(drawn)
    assert pictures.lean(drawn) == lean


def test_nothing_in_a_picture_can_leave_its_attribute(drawn):
    uri = pictures.data_uri(drawn)
    assert not set('"<>&#\n') & set(uri)
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == pictures.lean(drawn)
