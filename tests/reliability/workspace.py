"""Folders and processes of the reliability cases: a small checkpoint and its tool files, and commands as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_lens.organism import CHECKPOINT

REPOSITORY = Path(__file__).resolve().parents[2]

DEMONSTRATIONS = (
    {"text": "a fine film , warm and clever", "label": "Positive"},
    {"text": "dull , slow and empty", "label": "Negative"},
    {"text": "a bright and moving story", "label": "Positive"},
    {"text": "weak jokes and a poor plot", "label": "Negative"},
    {"text": "funny and tender", "label": "Positive"},
    {"text": "loud and pointless", "label": "Negative"},
)


@dataclass(frozen=True)
class Done:
    """The result of a command: exit status (None if it did not end in time), standard output and standard error."""

    status: int | None
    output: str
    errors: str


def bash(line: str, folder: Path, clone: Path, seconds: float = 120, **environment: str) -> Done:
    """Run a command line of bash in a folder, with the commands ``icl-lens`` and ``snakemake`` of this environment.

    ``snakemake`` runs in ``clone``, a copy of the repository; ``$HERE`` is ``folder``. All processes are killed at the end.
    """
    commands = (
        f'icl-lens() {{ {sys.executable} -m icl_lens "$@"; }}; '
        f'snakemake() {{ (cd "$CLONE" && {Path(sys.executable).parent}/snakemake --cores 1 "$@"); }}; '
    )
    process = subprocess.Popen(
        ["bash", "-c", commands + line],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "src"),
            "HERE": str(folder),
            "CLONE": str(clone),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        status = None
    return Done(status, output.decode(errors="replace"), errors.decode(errors="replace"))


class Place:
    """The folder of one case, with functions that put files into it.

    Attributes:
        folder: The folder.
        shared: A folder with files that take seconds to make, shared by all cases.
    """

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder, self.shared = folder, shared
        folder.mkdir(parents=True)

    def write(self, name: str, content: str | bytes | Any) -> Path:
        """Write a file: text, bytes, or any other value as JSON, which is also valid YAML."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def model(self, name: str = "model") -> Path:
        """Copy the embedded model."""
        return Path(shutil.copytree(CHECKPOINT, self.folder / name))

    def edit_json(self, name: str, **keys: Any) -> None:
        """Set keys of a JSON file."""
        path = self.folder / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | keys))

    def demos(self, name: str = "demos.jsonl") -> Path:
        """Write demonstrations of SST-2."""
        return self.write(name, "".join(json.dumps(row) + "\n" for row in DEMONSTRATIONS))

    def tools(self) -> None:
        """Copy the model, demonstrations, texts, and the files that `compress` and `reweight-components` write."""
        if not (self.shared / "made").exists():
            shutil.rmtree(self.shared, ignore_errors=True)
            made = Place(self.shared, self.shared)
            made.model()
            made.demos()
            made.write("texts.txt", "a warm film\nan empty film\n")
            options = "--model model --task sst2 --device cpu"
            quick = "{epochs: 2, calibration_epochs: 2}"
            for line in (
                f"icl-lens compress {options} --demos demos.jsonl --out demos.cache",
                f"icl-lens reweight-components {options} --train demos.jsonl --demonstrations 2 --settings '{quick}' "
                "--out components.safetensors",
                "icl-lens corpora --task sst2 --seed 0 --out corpora/sst2.parquet",
                "icl-lens prompts --task sst2 --corpus corpora/sst2.parquet --set fresh-1shot --seeds 1 --queries 2 "
                "--out prompts/sst2/fresh-1shot.parquet",
            ):
                done = bash(line, self.shared, self.shared)
                if done.status:
                    raise RuntimeError(f"{line}: {done.errors}")
            made.write("made", "")
        shutil.copytree(self.shared, self.folder, dirs_exist_ok=True)
