"""Training of a model that learns in context, on the texts of one or more tasks: ``icl-lens training``.

The embedded model is the result for the built-in corpora and the default recipe. The state is regularly saved to a separate
folder during training. Rerun the same command to resume an interrupted run. On a CPU, a resumed run gives the same bytes as an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from icl_lens import json_text
from icl_lens.artifacts import hashes, parquet, provenance
from icl_lens.artifacts.files import make_readable, unreadable, whole_file, whole_folder, writing
from icl_lens.corpora.schema import CORPORA
from icl_lens.errors import InputError
from icl_lens.models.loading import pick_device
from icl_lens.organism.code import code_hashes
from icl_lens.organism.material import Material, content_hash
from icl_lens.organism.optimisation import Trainer
from icl_lens.organism.recipe import Recipe
from icl_lens.organism.schema import TRAINING
from icl_lens.tasks.task import TASKS

logger = logging.getLogger(__name__)

# Number of steps averaged in one row of the training table.
EVERY = 50
# Seconds between two saves of the state, that is, the maximum training time lost by an interruption.
SAVE_SECONDS = 20.0

STATE = "state.safetensors"
CHECKPOINTS = "checkpoints"
FIGURES = ("matching", "answer", "text", "first_seen", "documents", "accuracy", "rung")


def read_corpora(paths: Sequence[Path | str]) -> dict[str, pd.DataFrame]:
    """Read corpora tables. The file name of each table is the name of its task.

    Returns:
        The table of each task. The ``attrs`` of a table contain the source of its texts.

    Raises:
        InputError: If a file is not a corpora table or is not named after a task.
    """
    tables = {}
    for path in map(Path, paths):
        if path.stem not in TASKS:
            raise InputError(f"corpora table {path}: the file name is not a task; it must be one of {', '.join(TASKS)}")
        table, origin = parquet.read(path, CORPORA)
        table.attrs["corpus"] = origin.get("corpus", {"source": "elsewhere"})
        tables[path.stem] = table
    return tables


def require_folder(option: str, folder: Path, ours: Callable[[Path], bool]) -> None:
    """Check that a folder to be replaced contains only files of a previous run.

    Args:
        option: Command line option that names the folder.
        folder: The folder; it need not exist.
        ours: Function that returns whether an entry may be deleted. Entries with a leading dot may always be deleted.

    Raises:
        InputError: If the folder contains other entries or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{option} {folder} is a file; give a folder")
    other = [entry.name for entry in folder.glob("*") if not entry.name.startswith(".") and not ours(entry)]
    if other:
        raise InputError(
            f"{option} {folder} contains {sorted(other)[0]}, which is not a file of a training run; give an empty or new folder"
        )


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after ``step`` steps. Names sort in the order of the steps."""
    return f"step-{step:06d}"


def checkpoint_step(folder: Path) -> int:
    """Return the step from a checkpoint's folder name."""
    return int(folder.name.removeprefix("step-"))


def read_facts(path: Path) -> dict[str, Any]:
    """Read the facts of a training run from its facts file or from a model card.

    Raises:
        InputError: If the file is neither of these, or if its recipe is not valid in this version.
    """
    try:
        facts = json_text.loads(path.read_text(encoding="utf-8"))
        facts = facts.get("training", facts)
        if not {"recipe", "corpora", "steps"} <= facts.keys():
            raise KeyError("recipe")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a facts file or card of a training run; run `snakemake organism` to make one"
        ) from error
    try:
        Recipe.model_validate(facts["recipe"])
    except ValidationError as error:
        raise InputError(f"{path}: the recipe is not valid in this version of icl-lens; train the model again") from error
    return facts


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint that ``from_pretrained`` can load. The folder is never left incomplete."""
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        for file in unfinished.iterdir():
            make_readable(file)


@dataclass
class _Log:
    """The training table during training.

    Attributes:
        rows: The rows so far.
        sums: Sums of the metrics over the steps since the last row.
        steps: Number of steps since the last row.
        seconds: Training time so far, in seconds.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0

    def add(self, step: int, figures: Mapping[str, float], *, last: bool) -> None:
        self.steps += 1
        for name in FIGURES:
            self.sums[name] = self.sums.get(name, 0.0) + figures[name]
        if step % EVERY == 0 or last:
            row = {"step": step} | {name: value / self.steps for name, value in self.sums.items()}
            logger.info("%s", " ".join(f"{name} {value:.4g}" for name, value in row.items()))
            self.rows.append(row)
            self.sums, self.steps = {}, 0


def run(
    recipe: Recipe,
    corpora: Sequence[Path | str],
    *,
    work: Path,
    checkpoints: Path,
    table: Path,
    facts: Path,
    device: str = "auto",
) -> None:
    """Train a model from scratch, or resume the same training run if it was interrupted.

    Args:
        recipe: Training settings.
        corpora: The corpora tables, each named after its task.
        work: Folder for the state. It is deleted at the end of the training.
        checkpoints: Output folder for the checkpoints, written at the end of the training.
        table: Output path of the training table.
        facts: Output path of a JSON file with everything that determines the weights, and the cost of the training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: If the texts or the recipe are invalid, if a folder contains other files, if the state is corrupted, or if
            the loss is non-finite.
    """
    require_folder("--work", work, lambda entry: entry.name in (STATE, CHECKPOINTS))
    require_folder("--checkpoints", checkpoints, lambda entry: entry.name.startswith("step-"))
    place = pick_device(device)
    tables = read_corpora(corpora)
    material = Material.build(recipe, tables)
    versions = provenance.library_versions()
    identity = {
        "recipe": recipe.model_dump(exclude_none=True, exclude={"evaluation"}),
        "corpora": {task: content_hash(texts) for task, texts in tables.items()},
        "device": place.type,
        "code": code_hashes(),
        "versions": {name: versions[name] for name in ("torch", "transformers", "tokenizers", "numpy")},
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    trainer = Trainer(recipe, material, place)
    logger.info(
        "%d parameters, %d topics, %d tokens, %d steps on %s",
        sum(parameter.numel() for parameter in trainer.model.parameters()),
        len(material.bank.names),
        len(material.tokenizer),
        recipe.total_steps,
        place.type,
    )
    log = _resume(work, trainer, fingerprint)
    _train(trainer, material, log, work, fingerprint)

    rows = pd.DataFrame(log.rows).astype({"step": "int64"})
    metadata = provenance.describe(
        TRAINING,
        [__name__],
        inputs={hashes.artifact_name(path, table): hashes.file_hash(path) for path in corpora},
        settings=identity["recipe"],
        seeds=[recipe.seed],
        device=place.type,
        threads=recipe.threads if place.type == "cpu" else None,
        tasks=list(tables),
        corpus=next(iter(tables.values())).attrs["corpus"],
    )
    parquet.write(table, rows, TRAINING, metadata)
    with whole_file(facts) as temporary:
        temporary.write_text(
            json.dumps({**identity, **_cost(recipe, trainer, log)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    # Copied instead of moved, so that the state stays complete if the run is interrupted here.
    with whole_folder(checkpoints) as unfinished:
        shutil.copytree(work / CHECKPOINTS, unfinished, dirs_exist_ok=True)
    shutil.rmtree(work)


def _cost(recipe: Recipe, trainer: Trainer, log: _Log) -> dict[str, Any]:
    """Return the cost of the training and the final rung of the curriculum."""
    return {
        "steps": trainer.progress.step,
        "episodes": trainer.progress.episodes,
        "tokens": trainer.progress.tokens,
        "rungs": {
            "last": trainer.progress.rung + 1,
            "of": len(recipe.curriculum.rungs),
            "left unpassed": trainer.progress.unpassed,
        },
        "seconds": round(log.seconds, 1),
        "last": log.rows[-1],
    }


def _train(trainer: Trainer, material: Material, log: _Log, work: Path, fingerprint: str) -> None:
    """Run all remaining steps."""
    recipe, folder = trainer.recipe, work / CHECKPOINTS
    kept = set(recipe.checkpoint_steps())
    start = saved = time.monotonic()
    before = log.seconds
    if trainer.progress.step == 0:
        save(trainer.model, material.tokenizer, folder / checkpoint_name(0))
    while trainer.progress.step < recipe.total_steps:
        figures = trainer.advance()
        step = trainer.progress.step
        if not all(math.isfinite(value) for value in figures.values()):
            raise InputError(
                f"organism: non-finite loss at step {step}; decrease organism.learning_rate (currently "
                f"{recipe.learning_rate:g}) or the scales under organism.architecture"
            )
        log.add(step, figures, last=step == recipe.total_steps)
        log.seconds = before + time.monotonic() - start
        if step in kept:
            save(trainer.model, material.tokenizer, folder / checkpoint_name(step))
        if step in kept or time.monotonic() - saved >= SAVE_SECONDS:
            _save_state(work, trainer, log, fingerprint)
            saved = time.monotonic()


def _save_state(work: Path, trainer: Trainer, log: _Log, fingerprint: str) -> None:
    tensors, progress = trainer.state()
    plain = json.dumps({"fingerprint": fingerprint, "progress": progress, "log": vars(log)})
    with whole_file(work / STATE) as temporary:
        # save_file rejects tensors that share memory, so each tensor is copied; the state may also be on another device.
        save_file({name: value.cpu().clone() for name, value in tensors.items()}, temporary, metadata={"state": plain})


def _resume(work: Path, trainer: Trainer, fingerprint: str) -> _Log:
    """Restore the saved state of the same training run. Clear the folder if there is no such state."""
    path = work / STATE
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                plain = json.loads(file.metadata()["state"])
                kept = [step for step in trainer.recipe.checkpoint_steps() if step <= plain["progress"]["step"]]
                if plain["fingerprint"] != fingerprint:
                    logger.info(
                        "%s belongs to another training run (recipe, texts, code, libraries or device differ) and is not used",
                        path,
                    )
                elif not all((work / CHECKPOINTS / checkpoint_name(step)).is_dir() for step in kept):
                    logger.info("%s lacks earlier checkpoints and is not used", work)
                else:
                    trainer.restore({name: file.get_tensor(name) for name in file.keys()}, plain["progress"])  # noqa: SIM118
                    log = _Log(**plain["log"])
                    logger.info("resuming after step %d", trainer.progress.step)
                    return log
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                unreadable(error, path)
                or f"{path}, the saved state of an interrupted training run, is corrupted; delete the folder {work} and run "
                "the same command again to train from the start"
            ) from error
    with writing(work):
        shutil.rmtree(work, ignore_errors=True)
        (work / CHECKPOINTS).mkdir(parents=True)
    return _Log()
