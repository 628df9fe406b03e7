"""Execution of the tutorials. ``python -m tests.tutorials`` writes their outputs again."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from icl_lens.artifacts.notebooks import strip_run

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
_NUMBER = re.compile(r"-?\d+\.\d+")


def execute(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Execute tutorials one after another in one kernel, which forgets all names in between.

    Returns:
        The executed tutorials, without what differs between runs: times, standard error and progress bars.
    """
    sources = [nbformat.read(path, as_version=4) for path in paths]
    together = nbformat.v4.new_notebook(metadata=sources[0]["metadata"])
    for source in sources:
        together["cells"] += [nbformat.v4.new_code_cell("%reset -f"), *source["cells"]]
    together["cells"] = [nbformat.from_dict({**cell, "id": f"all-{n}"}) for n, cell in enumerate(together["cells"])]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(together, timeout=60, kernel_name="python3", resources={"metadata": {"path": folder}})
        cells = iter(json.loads(nbformat.writes(client.execute()))["cells"])
    executed = []
    for source in sources:
        next(cells)  # the reset
        content = {**source, "metadata": {"kernelspec": _KERNEL, "language_info": {"name": "python"}}}
        content["cells"] = [next(cells) for _ in source["cells"]]
        code = (cell for cell in content["cells"] if cell["cell_type"] == "code")
        for number, cell in enumerate(code, 1):
            cell["outputs"] = [output for output in cell["outputs"] if _WIDGET not in output.get("data", {})]
            for output in (cell, *cell["outputs"]):
                if "execution_count" in output:
                    output["execution_count"] = number
        executed.append(strip_run(content))
    return executed


def printed(notebook: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the number of each cell that prints text, and its text, without the descriptions of pictures."""
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                yield number, "".join(output["text"])
            elif "image/png" not in output.get("data", {}):
                yield number, "".join(output["data"]["text/plain"])


def split(text: str) -> tuple[list[str], list[float], list[float]]:
    """Return the words between the decimal numbers of a text, the numbers, and the value of the last digit of each."""
    numbers = _NUMBER.findall(text)
    words = [" ".join(part.split()) for part in _NUMBER.split(text)]
    return words, [float(number) for number in numbers], [10.0 ** -len(number.partition(".")[2]) for number in numbers]


if __name__ == "__main__":
    for tutorial in TUTORIALS:
        (content,) = execute([tutorial])
        tutorial.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
