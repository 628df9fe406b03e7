"""Damaged results and changed inputs of a small run: the audit must name each file, and repair and rerun must restore it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from .kills import different
from .tiny_run import TinyRun

FIGURE, TABLE = "figures/figure_3", "tables/table_1"
SALIENCY = "studies/organism/mine/fresh-1shot/saliency.parquet"


@dataclass(frozen=True)
class Damage:
    """One way to damage a file.

    Attributes:
        name: What is damaged.
        plant: Damages a file below the folder of the clone.
        named: Pattern of the file that the audit must name.
        kind: ``results``: a repair and a rerun make the intact files again. ``stray``: in addition, the user must delete the
            named file, because no rule makes it. ``input``: the results must follow the changed input, and must follow again
            when it is changed back.
    """

    name: str
    plant: Callable[[Path], object]
    named: str
    kind: str = "results"


def check(damage: Damage, tiny: TinyRun, expected: dict[str, str], intact: Path) -> tuple[str, tuple[str, ...]]:
    """Damage a file, audit, repair and rerun, and compare the results.

    Args:
        damage: The way to damage the file.
        tiny: The run, with intact results.
        expected: Hashes of the intact results.
        intact: A folder with a copy of the clone, to restore it.

    Returns:
        The line in which the audit names the file, and the faults (none if the file was found and repaired).
    """
    folder = tiny.clone.folder
    restore(intact, folder)
    damage.plant(folder)
    strays = {path for path in tiny.results.rglob("*") if not path.is_dir()} if damage.kind == "stray" else set()
    strays = {path for path in strays if path.relative_to(tiny.results).as_posix() not in expected} - _of_jobs(
        strays, tiny.results
    )
    found = tiny.audit()
    lines = [line for line in found.stdout.splitlines() if re.search(damage.named, line)]
    faults = (
        [] if found.returncode == 1 and lines else [f"the audit does not name it: {found.stdout[-500:]}{found.stderr[-500:]}"]
    )
    faults += _repaired(tiny)
    if damage.kind == "input":
        if not faults and not different(tiny.hashes(), expected):
            faults.append("the results do not follow the input")
        restore(intact, folder, results=False)
        if tiny.audit().returncode == 0:
            faults.append("the audit does not find that the input was changed back")
        faults += _repaired(tiny)
    for path in strays:
        path.unlink()
    faults += different(tiny.hashes(), expected)
    audited = tiny.audit()
    if audited.returncode != 0:
        faults.append(f"audit after the repair: {audited.stdout.splitlines()[:1]}{audited.stderr[-300:]}")
    return (lines or [""])[0], tuple(faults)


def _repaired(tiny: TinyRun) -> list[str]:
    """Repair and rerun, and return the faults."""
    repaired = tiny.audit("--repair")
    rerun = tiny.run()
    faults = [f"the repair printed a traceback: {repaired.stderr[-300:]}"] if "Traceback" in repaired.stderr else []
    return faults + ([f"the rerun ended with status {rerun.returncode}: {rerun.stdout[-500:]}"] if rerun.returncode else [])


def _of_jobs(paths: set[Path], results: Path) -> set[Path]:
    return {path for path in paths if path.relative_to(results).parts[0] in ("logs", "benchmarks")}


def restore(intact: Path, folder: Path, results: bool = True) -> None:
    """Restore the inputs of a clone and, if asked for, its results, with their modification times."""
    for name in ("examples", "models", "notebooks", "src", *(("results", ".snakemake") if results else ())):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(intact / name, folder / name, symlinks=True)


def flip(path: Path, position: float = 0.5) -> None:
    """Flip the bits of one byte."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0xFF
    path.write_bytes(content)


def flipped(name: str, position: float = 0.5) -> Damage:
    """Return the case of one flipped byte in a result."""
    return Damage(f"one byte flipped in {name}", lambda folder: flip(one(folder, name), position), pattern(name))


def truncated(name: str, share: float) -> Damage:
    """Return the case of a truncated result."""

    def plant(folder: Path) -> None:
        path = one(folder, name)
        os.truncate(path, int(path.stat().st_size * share))

    return Damage(f"{name} truncated to {share:.0%} of its size", plant, pattern(name))


def deleted(name: str) -> Damage:
    """Return the case of a deleted result."""
    return Damage(f"{name} deleted", lambda folder: one(folder, name).unlink(), pattern(name))


def pattern(name: str) -> str:
    """Return the pattern of the path of a result in the output of the audit; ``*`` stands for any folder."""
    return re.escape(name).replace(r"\*", "[^ ]*")


def one(folder: Path, name: str) -> Path:
    """Return the first result that matches a pattern."""
    return min((folder / "results").glob(name))


def swap(first: str, second: str) -> Callable[[Path], None]:
    """Return a function that swaps two results."""

    def plant(folder: Path) -> None:
        one_path, other = one(folder, first), one(folder, second)
        content = one_path.read_bytes()
        one_path.write_bytes(other.read_bytes())
        other.write_bytes(content)

    return plant


def rewritten(name: str, change: Callable[[pd.DataFrame], pd.DataFrame], **metadata) -> Callable[[Path], None]:
    """Return a function that changes the rows or the metadata of a table, and writes correct page checksums."""

    def plant(folder: Path) -> None:
        path = one(folder, name)
        schema = pq.read_table(path).schema  # with all metadata
        about = json.loads(schema.metadata[b"icl_lens"]) | metadata
        schema = schema.with_metadata({**schema.metadata, b"icl_lens": json.dumps(about).encode()})
        table = pa.Table.from_pandas(change(pq.read_table(path).to_pandas()), schema=schema, preserve_index=False)
        pq.write_table(table, path, write_page_checksum=True)

    return plant


def changed(table: pd.DataFrame) -> pd.DataFrame:
    """Change one number."""
    table.loc[0, "s_pq"] *= 1.001
    return table


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a function that replaces text in a file, and keeps its modification time."""

    def plant(folder: Path) -> None:
        path = folder / name
        status = path.stat()
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{name} does not contain {old!r}")
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return plant


def tensors(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a function that changes the tensors of a file, and keeps its metadata and its modification time."""

    def plant(folder: Path) -> None:
        path = folder / name if (folder / name).exists() else one(folder, name)
        status = path.stat()
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        loaded = {key: value.copy() for key, value in load_file(path).items()}
        change(loaded)
        save_file(loaded, path, metadata=metadata)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return plant


def scale(loaded: dict) -> None:
    """Change the first tensor."""
    name = min(loaded)
    loaded[name] = loaded[name] * 1.01


def older(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a function that moves an older file over an input: other content, and a modification time of 2001."""

    def plant(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{name} does not contain {old!r}")
        moved = path.with_name(f"moved-{path.name}")
        moved.write_text(text.replace(old, new, 1), encoding="utf-8")
        os.utime(moved, (1e9, 1e9))
        moved.replace(path)

    return plant


def to_folder(name: str) -> Callable[[Path], None]:
    """Return a function that replaces a result by a folder of the same name."""

    def plant(folder: Path) -> None:
        path = one(folder, name)
        path.unlink()
        path.mkdir()

    return plant


def stray(name: str | bytes) -> Callable[[Path], None]:
    """Return a function that adds a file to the results."""

    def plant(folder: Path) -> None:
        path = os.path.join(os.fsencode(folder / "results"), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(b"notes")

    return plant


def copied(source: str, target: str) -> Callable[[Path], None]:
    """Return a function that copies a result to another name."""

    def plant(folder: Path) -> None:
        path = folder / "results" / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(one(folder, source), path)

    return plant


def renamed(source: str, target: str) -> Callable[[Path], None]:
    """Return a function that renames a result."""

    def plant(folder: Path) -> None:
        one(folder, source).rename(folder / "results" / target)

    return plant


def of_record(name: str, **facts) -> Callable[[Path], None]:
    """Return a function that changes a record of inputs and outputs."""

    def plant(folder: Path) -> None:
        path = folder / "results" / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts), encoding="utf-8")

    return plant


DAMAGES = (
    flipped("corpora/mine.parquet"),
    flipped("corpora/sst2.parquet", 0.99),
    flipped("prompts/mine/fresh-1shot.parquet"),
    flipped(SALIENCY, 0.3),
    flipped("studies/organism/sst2/*/reweighting.safetensors"),
    flipped("synthetic/hidden_markov.parquet"),
    *(flipped(f"{FIGURE}.{ending}") for ending in ("pdf", "svg", "png", "csv", "txt", "json")),
    *(flipped(f"{TABLE}.{ending}") for ending in ("csv", "md", "tex")),
    flipped("notebooks/figure_3.ipynb"),
    flipped("report/index.html"),
    flipped("report/scorecard.csv"),
    truncated("corpora/sst2.parquet", 0.9),
    truncated("studies/organism/sst2/*/reweighting.safetensors", 0.5),
    truncated(f"{FIGURE}.pdf", 0.99),
    truncated(f"{TABLE}.json", 0.5),
    truncated(SALIENCY, 0),
    deleted("prompts/mine/fresh-1shot.parquet"),
    deleted("studies/organism/sst2/*/reweighting.safetensors"),
    deleted("tables/kr_table_3.json"),
    deleted("notebooks/kr_table_3.ipynb"),
    deleted("report/index.html"),
    deleted("report/index.json"),
    deleted("report/scorecard.csv"),
    Damage("two corpora swapped", swap("corpora/mine.parquet", "corpora/sst2.parquet"), r"corpora/(mine|sst2)\.parquet"),
    Damage("two pictures swapped", swap(f"{FIGURE}.png", "figures/cr_figure_1.png"), r"figures/(figure_3|cr_figure_1)\.png"),
    Damage("a number changed, with correct checksums", rewritten(SALIENCY, changed), pattern(SALIENCY)),
    Damage(
        "a row duplicated, with correct checksums", rewritten(SALIENCY, lambda t: pd.concat([t, t.tail(1)])), pattern(SALIENCY)
    ),
    Damage("a row missing, with correct checksums", rewritten(SALIENCY, lambda t: t.drop(index=3)), pattern(SALIENCY)),
    Damage("rows in another order, with correct checksums", rewritten(SALIENCY, lambda t: t[::-1]), pattern(SALIENCY)),
    Damage("other settings in the metadata", rewritten(SALIENCY, lambda t: t, seeds=[43]), pattern(SALIENCY)),
    Damage("no inputs in the metadata", rewritten(SALIENCY, lambda t: t, inputs={}), pattern(SALIENCY)),
    Damage("a list as the inputs in the metadata", rewritten(SALIENCY, lambda t: t, inputs=["x"]), pattern(SALIENCY)),
    Damage(
        "a tensor deleted", tensors("studies/organism/sst2/*/reweighting.safetensors", lambda t: t.pop(min(t))), "reweighting"
    ),
    Damage("a tensor changed", tensors("studies/organism/sst2/*/reweighting.safetensors", scale), "reweighting"),
    Damage(
        "a cell of a table changed, with the same modification time",
        lambda f: edit_cell(f / f"results/{TABLE}.csv"),
        pattern(f"{TABLE}.csv"),
    ),
    Damage(
        "an output of a notebook changed", replaced("results/notebooks/figure_3.ipynb", "cell-0", "cell-9"), r"figure_3\.ipynb"
    ),
    Damage(
        "a claim's verdict changed in the report",
        replaced("results/report/index.html", "</title>", "!</title>"),
        r"index\.html",
    ),
    Damage("a record without its outputs", of_record(f"{FIGURE}.json", outputs={}), "figure_3"),
    Damage("a record without its inputs", of_record(f"{FIGURE}.json", inputs={}), "figure_3"),
    Damage("a figure renamed", renamed(f"{FIGURE}.png", "figures/figure_33.png"), "figure_3.png", "stray"),
    Damage(
        "a corpus copied to the name of another task",
        copied("corpora/sst2.parquet", "corpora/trec.parquet"),
        r"corpora/trec\.parquet",
    ),
    Damage("a folder in place of a picture", to_folder(f"{FIGURE}.png"), r"figure_3\.png"),
    Damage("a folder in place of a table", to_folder(SALIENCY), pattern(SALIENCY)),
    Damage("a file added to the figures", stray("figures/notes.md"), r"notes\.md", "stray"),
    Damage("a picture that no item draws", stray("figures/old.png"), r"figures/old\.png", "stray"),
    Damage("a file whose name is not UTF-8", stray(b"tables/caf\xe9.txt"), "caf.*txt", "stray"),
    Damage("a link to a missing file", lambda f: os.symlink("nowhere", f / "results/figures/link.md"), r"link\.md", "stray"),
    Damage(
        "an older data file moved over the test texts",
        older("examples/tickets/test.csv", "invoice", "receipt"),
        r"test\.csv|corpora/mine",
        "input",
    ),
    Damage(
        "a weight of the model changed, with the same modification time",
        tensors("models/organism/model.safetensors", scale),
        "model|organism",
        "input",
    ),
    Damage(
        "the model's configuration changed, with the same modification time",
        replaced("models/organism/config.json", "{", "{ "),
        "model|organism|config",
        "input",
    ),
    Damage(
        "a notebook changed, with the same modification time",
        replaced("notebooks/anchors/table_1.ipynb", '"cells": [', '"cells": [ '),
        "table_1",
        "input",
    ),
    Damage(
        "code changed, with the same modification time",
        replaced("src/icl_lens/studies/anchors/saliency/compute.py", "\n\n\n", "\n\nEDITED = 1\n\n\n"),
        "saliency",
        "input",
    ),
)


def edit_cell(path: Path) -> None:
    """Change the last digit of a table, and keep the modification time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    last = max(index for index, byte in enumerate(content) if chr(byte).isdigit())
    content[last] = ord("7") if content[last] != ord("7") else ord("3")
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
