import copy
import json
import re

import pytest

from icl_lens.artifacts import notebooks
from icl_lens.errors import InputError
from icl_lens.studies import registry

from ..conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*/*.ipynb"))
EXAMPLES = sorted((REPOSITORY / "examples").glob("*/*.ipynb"))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXAMPLES], ids=lambda path: path.stem)
def test_a_committed_notebook_holds_no_outputs_and_one_cell_of_parameters(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert notebook["metadata"]["language_info"]["name"] == "python"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXAMPLES], ids=lambda path: path.stem)
def test_a_notebook_calls_no_model(path):
    cells = json.loads(path.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    forbidden = (
        "import torch",
        "transformers",
        "icl_lens.models",
        "icl_lens.studies.run",
        "icl_lens.studies.computing",
        "import compute",
    )
    assert not any(word in source for word in forbidden)
    assert not re.search(r"icl_lens\.studies\.\S*compute", source)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXAMPLES], ids=lambda path: path.stem)
def test_the_notes_of_a_figure_are_not_read_as_mathematics(path):
    cells = json.loads(path.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    if "save_figure(" in source and "figures.notes(" in source:
        if path.parent.name == "anchors":
            assert "{row.title}" not in source
            # The title in the CSV of Figure 3 is not escaped.
            assert not re.search(r"(?<!figures\.plain\()(?<!\"title\": \[)figures\.task_title\(", source)
        # A title of a task in a note can contain "$". Either these notes or all notes are escaped.
        assert "map(figures.plain, figures.notes(" in source or "[figures.plain(note) for note in notes]" in source


def test_every_item_has_its_notebook_and_every_notebook_an_item():
    assert {f"{path.parent.name}/{path.stem}" for path in NOTEBOOKS} == {item.notebook for item in registry.items().values()}


def executed(seconds, cell):
    return {
        "metadata": {"papermill": {"duration": seconds}, "kernelspec": {"name": "python3"}},
        "cells": [
            {
                "cell_type": "code",
                "id": cell,
                "source": [],
                "metadata": {"papermill": {"duration": seconds}, "execution": {"at": seconds}, "tags": ["a"]},
                "outputs": [{"output_type": "stream", "name": "stdout", "text": ["kept"]}],
            }
        ],
    }


def test_two_runs_of_a_notebook_differ_in_nothing_that_is_kept():
    first, second = (notebooks.strip_run(copy.deepcopy(executed(*run))) for run in ((1.5, "x1"), (2.5, "y2")))
    assert first == second
    assert first["cells"][0]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["kept"]}]
    assert first["cells"][0]["metadata"] == {"tags": ["a"]}


def stream(name, *text):
    return {"output_type": "stream", "name": name, "text": list(text)}


def test_what_is_printed_is_kept_in_one_piece_and_what_a_machine_says_of_itself_is_not():
    once, twice = executed(1, "a"), executed(1, "a")
    result = {"output_type": "execute_result", "data": {}}
    once["cells"][0]["outputs"] = [stream("stdout", "one\n", "two\n"), result, stream("stdout", "three\n")]
    pieces = [
        stream("stdout", "one\n", "t"),
        stream("stderr", "listing the fonts\n"),
        stream("stdout", "wo"),
        stream("stdout", "\n"),
    ]
    twice["cells"][0]["outputs"] = [*pieces, result, stream("stdout", "three\n")]
    assert notebooks.strip_run(twice) == notebooks.strip_run(once)
    assert once["cells"][0]["outputs"] == [stream("stdout", "one\n", "two\n"), result, stream("stdout", "three\n")]


def test_what_a_notebook_says_on_standard_error_is_logged(tmp_path, caplog):
    run = executed(1, "a")
    run["cells"][0]["outputs"] = [stream("stderr", "listing ", "the fonts\n")]
    (tmp_path / "run.ipynb").write_text(json.dumps(run))
    paths = [tmp_path / name for name in ("run.ipynb", "run.ipynb", "figures/o.ipynb", "figures/o.json")]
    (tmp_path / "figures").mkdir()
    notebooks.record(*paths, [], [])
    assert caplog.messages == ["run.ipynb wrote to standard error: listing the fonts"]
    assert "fonts" not in paths[2].read_text()


def test_an_output_that_was_not_written_is_told(tmp_path):
    path = tmp_path / "run.ipynb"
    path.write_text(json.dumps(executed(1, "a")))
    with pytest.raises(InputError, match=r"did not write .*figure_3\.pdf"):
        notebooks.record(path, path, tmp_path / "o.ipynb", tmp_path / "o.json", [], [tmp_path / "figure_3.pdf"])
    assert [p.name for p in tmp_path.iterdir()] == ["run.ipynb"]
