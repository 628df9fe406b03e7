"""The tutorials: their committed outputs, and their execution."""

import base64
import json
import re

import pytest

from ..tutorials import TUTORIALS, execute, printed, split

MOST_BYTES = 200_000
"""Maximum size of a picture in a tutorial."""


def test_there_are_three_tutorials():
    assert [path.stem for path in TUTORIALS] == ["01_flow_in_one_prompt", "02_own_task", "03_write_an_intervention"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_committed_tutorial_is_executed_and_small(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(len(base64.b64decode("".join(picture))) < MOST_BYTES for picture in pictures)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    text = "".join(text for _, text in printed(notebook))
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|usr)/", text)
    assert "%pip install" in "".join(code[0]["source"])


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_text_of_a_tutorial_contains_no_result(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    assert re.findall(r"(?<![\w./])\d+\.\d+(?![\w./])", text) == []
    assert "model organism" in text
    assert "not evidence" in text


def test_the_tutorials_print_the_committed_numbers():
    for path, executed in zip(TUTORIALS, execute(TUTORIALS), strict=True):
        committed = list(printed(json.loads(path.read_text(encoding="utf-8"))))
        found = list(printed(executed))
        assert [number for number, _ in found] == [number for number, _ in committed], path.stem
        for (number, expected), (_, text) in zip(committed, found, strict=True):
            (words, values, digits), (own_words, own_values, _) = split(expected), split(text)
            where = f"cell {number} of {path.stem}"
            assert own_words == words, where
            # Another processor rounds differently, which can change the last digit.
            assert all(
                abs(own - value) <= 1.01 * digit for own, value, digit in zip(own_values, values, digits, strict=True)
            ), where
