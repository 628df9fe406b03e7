"""Run all reliability cases and write docs/reliability.md: ``make reliability``.

Each outcome is saved when its case has ended, so that an interrupted command can be resumed. The saved outcomes are used
only while the files of the project are unchanged. ``--only KIND`` runs one kind of case, and ``--first N`` the first cases of
each kind. The document is written when every case has an outcome.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..workflow.conftest import COPIED
from . import bad_inputs, damages, interruptions, kills
from .tiny_run import TinyRun
from .workspace import REPOSITORY, Place

PAGE = REPOSITORY / "docs/reliability.md"
INTRODUCTION = """# Reliability

<!-- `make reliability` writes this file. -->

- **Killed runs: {resumed} of {kills} resumed.** A small run is killed with SIGKILL at a random moment: all processes, only
  Snakemake, or one process of a job. The same command then makes the remaining results. The case passes if each file has the
  same bytes as in an uninterrupted run, `icl-lens audit` finds no fault, and a further run has nothing to do. Logs and measured
  times are not compared.
- **Damaged files: {repaired} of {damages} found and repaired.** A file of the results or an input is damaged. The case passes
  if `icl-lens audit` names the file, and if, after `icl-lens audit --repair` and the same command, each file has the same bytes
  as in the undamaged run. The audit names files that no rule makes but never deletes them.
- **Invalid inputs: {passed} of {inputs} passed.** The case passes if the command ends with status 1 or 2 and a one-line error,
  without a traceback and without a new or changed file. For an input that is unusual but valid, the command must succeed. For
  an interruption other than SIGKILL, the resumed run must make the same bytes.

The small run has one of the paper's tasks and one own task, the embedded model, one seed and two queries
(`tests/reliability/tiny_run.py`). The other files in `tests/reliability/` define the cases. `make reliability` runs all
cases and writes this file (about one hour on two cores). Rerun the command to resume it. `make test` runs the quick cases.
"""
KINDS = ("killed runs", "damaged files", "interruptions", "invalid inputs")


class Case(NamedTuple):
    """One case: its kind, its name, and a function that returns its result and its faults."""

    kind: str
    name: str
    run: Callable[[], tuple[str, tuple[str, ...]]]


class Session:
    """The folders of the cases and the saved outcomes.

    Attributes:
        folder: Folder for the runs. Its contents can be deleted.
        outcomes: ``[answer, faults]`` by kind and name of the case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "outcomes.json"
        version = _version()
        saved = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        if saved.get("version") != version:
            shutil.rmtree(folder, ignore_errors=True)
            saved = {"version": version, "outcomes": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self._saved = saved
        self.outcomes: dict[str, list] = saved["outcomes"]
        self._tiny: TinyRun | None = None

    def save(self, case: Case, answer: str, faults: tuple[str, ...]) -> None:
        """Save an outcome."""
        self.outcomes[f"{case.kind}: {case.name}"] = [self.portable(answer), [self.portable(fault) for fault in faults]]
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(self._saved, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(self._file)

    def portable(self, text: str) -> str:
        """Return a text without the paths of this machine."""
        for folder, name in ((self.folder, "FOLDER"), (REPOSITORY, "REPOSITORY")):
            text = text.replace(str(folder), name)
        return text

    @property
    def tiny(self) -> TinyRun:
        """The small run, after its uninterrupted results are made."""
        if self._tiny is None:
            self._tiny = TinyRun(self.folder / "a run")
            self.expected, self.files = self._tiny.uninterrupted()
            self.intact = self.folder / "intact"
            shutil.rmtree(self.intact, ignore_errors=True)
            shutil.copytree(self._tiny.clone.folder, self.intact, symlinks=True)
        return self._tiny

    def place(self, name: str) -> Place:
        """Return a new folder for an invalid input."""
        folder = self.folder / "invalid inputs" / hashlib.sha256(name.encode()).hexdigest()[:12]
        shutil.rmtree(folder, ignore_errors=True)
        return Place(folder, self.folder / "tools")

    def cases(self) -> Iterator[Case]:
        """Yield all cases."""
        for kill in kills.plan():
            yield Case(
                "killed runs",
                f"{kill.number + 1}. {kill.name}",
                lambda kill=kill: kills.check(kill, self.tiny, self.expected, self.files),
            )
        for damage in damages.DAMAGES:
            yield Case(
                "damaged files",
                damage.name,
                lambda damage=damage: damages.check(damage, self.tiny, self.expected, self.intact),
            )
        for name, function in interruptions.CASES.items():
            yield Case("interruptions", name, lambda function=function: function(self.tiny, self.expected))
        for area, found in bad_inputs.CASES.items():
            for case in found:
                yield Case("invalid inputs", f"{area}: {case.name}", lambda case=case: self._invalid_input(case))

    def _invalid_input(self, case: bad_inputs.Case) -> tuple[str, tuple[str, ...]]:
        place = self.place(case.name)
        outcome = bad_inputs.run(case, place, REPOSITORY)
        shutil.rmtree(place.folder)
        return outcome.answer, outcome.faults


def _version() -> str:
    """Return a hash of all files that can change the outcomes."""
    digest = hashlib.sha256()
    roots = [*COPIED, "tests/reliability"]
    for root in roots:
        path = REPOSITORY / root
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(REPOSITORY)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def page(outcomes: dict[str, list]) -> str:
    """Return the document."""
    by_kind = {kind: {} for kind in KINDS}
    for name, outcome in outcomes.items():
        kind, _, case = name.partition(": ")
        by_kind[kind][case] = outcome
    good = {kind: sum(not faults for _, faults in found.values()) for kind, found in by_kind.items()}
    inputs = {**by_kind["interruptions"], **by_kind["invalid inputs"]}
    tried = {
        "kills": len(by_kind["killed runs"]),
        "damages": len(by_kind["damaged files"]),
        "inputs": len(inputs),
        "resumed": good["killed runs"],
        "repaired": good["damaged files"],
        "passed": good["interruptions"] + good["invalid inputs"],
    }
    lines = [INTRODUCTION.format(**tried)]
    for heading, found in (
        ("Killed runs", by_kind["killed runs"]),
        ("Damaged files", by_kind["damaged files"]),
        ("Invalid inputs", inputs),
    ):
        lines += [f"## {heading}", "", "| case | result |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_result(outcome)} |" for name, outcome in found.items()]
        lines.append("")
    return "\n".join(lines)


def _result(outcome: list) -> str:
    answer, faults = outcome
    text = _cell(answer.strip().splitlines()[-1] if answer.strip() else "as expected", code=True)
    return text if not faults else f"**failed**: {_cell('; '.join(faults)[:300])} {text}"


def _cell(text: str, code: bool = False) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    text = text if len(text) <= 220 else text[:217] + "..."
    return f"`{text.replace('`', chr(39))}`" if code else text


def main() -> int:
    """Run the cases without an outcome and write the document."""
    parser = argparse.ArgumentParser(
        prog="make reliability", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS, action="append", help="run only this kind of case")
    parser.add_argument("--first", type=int, help="run only the first cases of each kind")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".reliability", help="folder for the runs and the outcomes")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    session = Session(options.folder.resolve())
    cases = list(session.cases())
    chosen = [case for kind in options.only or KINDS for case in [c for c in cases if c.kind == kind][: options.first]]
    for case in chosen:
        if f"{case.kind}: {case.name}" in session.outcomes:
            continue
        answer, faults = case.run()
        session.save(case, answer, faults)
        reason = f": {'; '.join(faults)[:600]}" if faults else ""
        print(f"{'FAILED' if faults else 'ok':6} {case.kind}: {case.name}{reason}", flush=True)
    names = [f"{case.kind}: {case.name}" for case in cases]
    for kind in KINDS:
        found = [session.outcomes[name] for name in names if name.startswith(f"{kind}: ") and name in session.outcomes]
        print(f"{kind}: {sum(not faults for _, faults in found)} of {len(found)} cases passed")
    if all(name in session.outcomes for name in names):
        PAGE.write_text(page({name: session.outcomes[name] for name in names}), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(REPOSITORY)}")
    return 1 if any(faults for _, faults in session.outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
