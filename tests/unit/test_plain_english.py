"""A list of phrases that no caption, error, help text or document may contain, because readers stumble over them."""

import ast
import json
import re
from pathlib import Path

import pytest

from ..conftest import REPOSITORY

# Phrase -> what to write instead.
PHRASES = {
    r"(?<!`)\bcommonest\b": "most frequent, majority baseline",
    r"\blikeliest\b": "most probable, top",
    r"\blook-?alikes?\b": "generated texts",
    r"\b[Ss]hown (is|are)\b": "The figure shows",
    r"\bstands? (twice|there|in every|below|above|nowhere|beside)\b": "duplicate; is, appears",
    r"\b(lies|lie) (there|between|beside|in)\b": "is, must be",
    r"\bits like\b|\btheir like\b": "the same pattern",
    r"\bas it is\b|\bas they are\b": "unchanged",
    r"\btells? nothing\b|\bthat says? nothing\b": "uninformative",
    r"\bhangs? together\b": "consistent",
    r"\bis no (seed|text|number|folder|task|name|model|list|file|choice|layer)\b": "is not a ..., must be ...",
    r"\bnumbers? that (is|are) none\b": "non-finite",
    r"\bput up with\b": "timeout",
    r"\bdoubted\b": "challenged",
    r"\bof the hub\b|\bfrom the hub\b": "of the Hub",
    r"\bright answers?\b|\banswers? right\b": "correct prediction",
    r"\b(one|each) (row|line|value) a (prompt|model|task|layer|seed|token)\b": "per",
    r"\b(nats|tokens|bytes|seconds|steps|prompts|queries) an? (token|prompt|second|step|batch|model|panel|task|seed)\b": "per",
    r"\bmust lie\b": "must be",
    r"\bgoes? on with\b": "resumes",
    r"\bin which layers\b": "isolated layers",
    r"\breads artifacts and calls no model\b": "only reads result files",
    r"\bof which each\b|\bwhoever\b|\bwhatsoever\b": "plain sentence",
    r"\b(wants|wishes) (to|a|an|the)\b": "requires",
    r"\bis not there\b|\bare not there\b": "is not available, does not exist",
    r"\bby hand what\b|\bnobody's\b|\banother's\b": "plain sentence",
}


def strings_of(tree):
    """Yield the line number and text of each string in a Python syntax tree, docstrings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def texts_of(path):
    """Yield the line number (or cell) and text of each text for readers in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from strings_of(ast.parse(text))
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                yield number, source
            else:
                yield from ((number, string) for _, string in strings_of(ast.parse(source)))
    else:
        yield from enumerate(text.splitlines(), 1)


FOLDERS = ("src", "notebooks", "workflow", "docs", "config", "examples", "benchmarks")
ENDINGS = {".py", ".ipynb", ".md", ".smk", ".yaml", ".jinja", ".rst"}
# Published from a run, so its words are those of the code that published it.
GENERATED = {REPOSITORY / "docs/gemma.md"}
# Claims files contain ids and values of table columns, which stay the same.
CLAIMS = REPOSITORY / "src/icl_lens/resources/claims"
# Values of table columns, which stay the same so that earlier tables remain readable.
VALUES = {"as it is", "reconstruction - commonest answer"}


def found_in(path):
    for place, text in texts_of(path):
        if text.isidentifier() or text in VALUES:  # a column
            continue
        for phrase, instead in PHRASES.items():
            for match in re.finditer(phrase, text):
                line = place + text[: match.start()].count("\n") if path.suffix == ".py" else place
                yield f"{path.relative_to(REPOSITORY)}:{line}: '{match[0]}' ({instead})"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_text_for_readers_has_a_listed_phrase(folder):
    paths = sorted(path for path in (REPOSITORY / folder).rglob("*") if path.suffix in ENDINGS and path not in GENERATED)
    paths = [path for path in paths if path.parent != CLAIMS]
    assert paths
    assert [line for path in paths for line in found_in(path)] == []


def test_no_document_at_the_top_has_a_listed_phrase():
    paths = [*sorted(REPOSITORY.glob("*.md")), REPOSITORY / "config.yaml", REPOSITORY / "Makefile"]
    assert [line for path in paths for line in found_in(path)] == []


def test_the_check_finds_a_phrase(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    code = tmp_path / "a.py"
    code.write_text('def f():\n    """Shown is how often.\n\n    It stands twice."""\n')
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["x = 'the commonest class'"]}]}))
    assert [line.partition(" ")[0] for path in (code, notebook) for line in found_in(Path(path))] == [
        "a.py:2:",
        "a.py:4:",
        "a.ipynb:0:",
    ]
