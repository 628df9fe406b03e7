"""Tests that docs/extending.md agrees with the code."""

import dataclasses
import re

import pytest

from icl_lens.artifacts import code
from icl_lens.studies.item import Item
from icl_lens.studies.study import Study

from ..conftest import REPOSITORY

GUIDE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")


def table(heading):
    """Return the first cells, without their backticks, of the table with the given first column heading."""
    rows = re.search(rf"^\| {heading} \|.*\n\|[-|]*\|\n((?:\|.*\n)*)", GUIDE, re.MULTILINE)[1]
    return [re.match(r"\| `(.*?)` \|", row)[1] for row in rows.splitlines()]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_the_code_that_it_shows_is_the_examples(block):
    if "def prepare" not in block:  # the example does not define this function
        files = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "examples/recency").glob("*.py")]
        assert any(block in text for text in files)


def test_it_names_every_field_of_a_study_and_only_fields_of_an_item():
    assert table("field") == [field.name for field in dataclasses.fields(Study)]
    of_items = re.findall(
        r"^\| `(\w+)` \|", GUIDE.split("A figure or table is an `Item(...)`:")[1].split("The docstring")[0], re.M
    )
    assert set(of_items) <= {field.name for field in dataclasses.fields(Item)}


@pytest.mark.parametrize("error", table("error"))
def test_the_errors_that_it_explains_are_those_of_the_code(error):
    files = [*(code.PACKAGE / "studies").glob("**/*.py"), *(code.PACKAGE / "cli").glob("*.py")]
    files += [code.PACKAGE / "results/audit.py", code.PACKAGE / "artifacts/rows.py", REPOSITORY / "workflow/rules/common.smk"]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # join strings that span several lines
    # The code assembles these messages from parts: values, the name of a field, and one of several faults.
    parts = re.split(r"…|NameError|^schema (?=must|lacks)|(?<=rows of compute\(\)) |(?<=break it: )", error)
    assert [part for part in parts if part.strip(" ;,:") not in text] == []


def test_its_links_lead_somewhere():
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", GUIDE, re.M)}
    for link in re.findall(r"\]\((.*?)\)", GUIDE):
        assert link[1:] in headings if link.startswith("#") else (REPOSITORY / "docs" / link).exists(), link
