"""Agreement of whole figures and tables with the plain references: a Markdown table, and an error if any value differs.

    .venv/bin/python benchmarks/artifacts.py [--cases one two] [--items figure_3 table_2 ...] [--folder FOLDER]

The command runs the workflow on small configurations (`tests/reference/items/cases.py`) with models that make mistakes. It then
computes the CSV of each item again, from the prompts and the model alone, with the references in `tests/reference/`, and
compares each value. The tolerance is 1e-4 of the largest value of a column. The ends of confidence intervals are not compared.
With --folder, the command uses the results that the folder already contains.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the references are part of the tests
from tests import plugins
from tests.reference.items import cases
from tests.reference.items.comparison import Compared, Item, compare

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(cases.CASES), default=list(cases.CASES))
    parser.add_argument("--items", nargs="+", choices=[item.name for item in cases.ITEMS])
    parser.add_argument("--folder", type=Path, help="folder of the results; a temporary folder by default")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the models are tiny
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icl-lens-artifacts-")))
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: compare_case(name, folder.resolve(), options.items) for name in options.cases}
    print_table(found)
    return int(any(result.faults for results in found.values() for result in results))


def compare_case(name: str, folder: Path, wanted: list[str] | None) -> list[Compared]:
    """Run the workflow on a case, and compare its items."""
    config = cases.config_of(name, folder)
    items = [item for item in items_of(config) if not wanted or item.name in wanted]
    if not items:
        return []
    overlay = cases.write(config, folder / f"{name}.yaml")
    start = time.perf_counter()
    run_workflow(overlay, [item.name for item in items])
    print(f"case {name}: workflow {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    run, results = cases.run_of(config), []
    for item in items:
        start = time.perf_counter()
        results.append(compare(item, item.rows(run), cases.csv_of(config, item.name)))
        state = f"{len(results[-1].faults)} differences" if results[-1].faults else "agrees"
        print(f"case {name}: {item.name} {state}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return results


def items_of(config: dict) -> list[Item]:
    """Return the items that a config shows."""
    with plugins.added(*(REPOSITORY / plugin for plugin in config.get("plugins", ()))):
        return cases.items_of(config)


def run_workflow(overlay: Path, targets: list[str]) -> None:
    """Run Snakemake with this repository's code.

    Raises:
        SystemExit: The workflow fails.
    """
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
    command = [Path(sys.executable).parent / "snakemake", *targets, "--cores", "all", "--nolock", "--configfile", overlay]
    done = subprocess.run(
        [*map(str, command), "--resources", "gpu=2"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nthe workflow failed; its last lines say why")


def print_table(found: dict[str, list[Compared]]) -> None:
    """Print the results as a Markdown table, and what differs."""
    names = list(dict.fromkeys(result.name for results in found.values() for result in results))
    by_case = {case: {result.name: result for result in results} for case, results in found.items()}
    print(f"| item | {' | '.join(f'{case}: rows, values, largest difference' for case in found)} |")
    print(f"|---|{'---|' * len(found)}")
    for name in names:
        cells = []
        for results in by_case.values():
            result = results.get(name)
            if result is None:
                cells.append("-")
            elif result.faults:
                cells.append(f"**{len(result.faults)} of {result.values} values differ**")
            else:
                cells.append(f"{result.rows}, {result.values}, {result.difference:.0e}")
        print(f"| {name} | {' | '.join(cells)} |")
    for case, results in found.items():
        for result in results:
            for fault in result.faults:
                print(f"\ncase {case}, {result.name}: {fault}")


if __name__ == "__main__":
    sys.exit(main())
