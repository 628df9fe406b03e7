"""The model card of the second model: training details, and errors with and without examples at each checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from icl_lens.artifacts.files import whole_folder
from icl_lens.errors import InputError
from icl_lens.models import generation, loading
from icl_lens.organism.training import checkpoint_step, require_folder
from icl_lens.prompts.positions import encode
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies.representation_change import lines, reading
from icl_lens.studies.representation_change.paired_answers import judged
from icl_lens.studies.representation_change.representation_change import summary
from icl_lens.studies.representation_change.settings import Lines, Reading

logger = logging.getLogger(__name__)

CARD = "card.json"
README = "README.md"

SEED = 7
"""Random seed of the evaluation prompts. It differs from the study's own seed."""

NEW_TOKENS, BATCH_TOKENS = 6, 4096


def measure(folder: Path, last: bool) -> pd.DataFrame:
    """Measure the errors of a checkpoint.

    Args:
        folder: The checkpoint.
        last: Whether it is the last checkpoint. The last checkpoint is evaluated in all conditions, the others only without
            examples and with the maximum number of examples.

    Returns:
        One row per task, number of distractors, number of examples and contrast, with the columns examples, contrast, value,
        low and high (the ends of the bootstrap interval over queries), prompts, task and distractors.
    """
    model = loading.load(folder, device="cpu")
    found = []
    for task, build, settings in (
        (lines.TASK, lines.build, Lines()),
        (reading.TASK, reading.build, Reading(queries=100 if last else 60)),
    ):
        table = build(settings, SEED)
        if not last:
            table = table[table["examples"].isin([0, max(settings.examples)]) & ~table["control"]]
        answers = generation.greedy_answers(model, encode(table, model.tokenizer), NEW_TOKENS, BATCH_TOKENS)
        # Candidates are not scored here, but `judged` requires a score for each of them.
        rows = judged(table.assign(answer=answers, candidate_log_probs=[[0.0] * len(c) for c in table["candidates"]]))
        for distractors, part in rows.groupby("distractors"):
            of = summary.conditions(part)
            errors = {key: summary.means(each["error"].to_numpy(), each, Bootstrap()) for key, each in of.items()}
            if last:
                cell = summary.contrasts(errors, ())
                cell = cell[cell["contrast"].isin(["none", "examples", "control"])]
            else:
                cell = pd.DataFrame(
                    [
                        {"examples": k, "contrast": "examples" if k else "none", "value": float(e.value), **e.columns()}
                        for (k, _), e in errors.items()
                    ]
                )
            cell = cell[["examples", "contrast", "value", "prompts_low", "prompts_high", "prompts"]]
            cell = cell.rename(columns={"prompts_low": "low", "prompts_high": "high"})
            found.append(cell.assign(task=task, distractors=int(distractors)))
    return pd.concat(found, ignore_index=True)


def write(checkpoints: Path, facts: Path, out: Path) -> None:
    """Measure each checkpoint, and write the last one and its model card into one folder. The folder is never left incomplete.

    Args:
        checkpoints: The folder with the checkpoints of a training run.
        facts: The facts file of the training run.
        out: The output folder.

    Raises:
        InputError: If the last checkpoint is missing, if the facts file cannot be read, or if the output folder contains other
            files.
    """
    require_folder("--folder", out, lambda entry: (out / CARD).is_file() and entry.is_file())
    try:
        training = json.loads(facts.read_text(encoding="utf-8"))
        steps = int(training["recipe"]["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{facts} is not a facts file of a training run; run `snakemake reader_organism` to make one"
        ) from error
    folders = {checkpoint_step(folder): folder for folder in sorted(checkpoints.glob("step-*"))}
    if steps not in folders:
        raise InputError(f"{checkpoints} lacks the checkpoint of step {steps}; delete the folder and train again")
    curve = []
    for step, folder in folders.items():
        curve.append(measure(folder, step == steps).assign(step=step))
        logger.info("evaluated the checkpoint of step %d", step)
    # A missing value is null, for example the error in a condition in which no answer is a number.
    rows = json.loads(pd.concat(curve, ignore_index=True).to_json(orient="records", double_precision=15))
    card = {"training": training, "evaluation": rows}
    with whole_folder(out) as unfinished:
        shutil.copytree(folders[steps], unfinished, dirs_exist_ok=True)
        (unfinished / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (unfinished / README).write_text(render(card), encoding="utf-8")


def render(card: dict[str, Any]) -> str:
    """Render the model card as Markdown. All numbers are taken from ``card.json``."""
    training, rows = card["training"], pd.DataFrame(card["evaluation"])
    recipe = training["recipe"]
    shape, rules = recipe["architecture"], recipe["rules"]
    rows["error"] = [f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in rows.itertuples()]
    rows["cell"] = [r.task if r.task == "lines" else f"{r.task}, {r.distractors} distractors" for r in rows.itertuples()]
    last = rows[rows["step"] == recipe["steps"]]
    names = {"none": "", "examples": " examples", "control": ", control"}
    last = last.assign(condition=[f"{r.examples}{names[r.contrast]}" for r in last.itertuples()])
    done = last.pivot_table(index="condition", columns="cell", values="error", aggfunc="first", sort=False).fillna("")
    plain = rows[rows["contrast"] != "control"]
    most = plain.groupby("cell")["examples"].transform("max")
    plain = plain[(plain["examples"] == 0) | (plain["examples"] == most)]
    plain = plain.assign(column=[f"{r.cell}: {'most' if r.examples else 'none'}" for r in plain.itertuples()])
    curve = plain.pivot_table(index="step", columns="column", values="value", sort=False).map("{:.2f}".format)
    return f"""# A model that reads lists and stories

A Llama of {shape["layers"]} layers, width {shape["width"]} and {shape["heads"]} heads ({training["parameters"]} parameters),
trained from scratch by icl-lens (`snakemake reader_organism`) on the two tasks of the study of representation change. It is a
model organism, not a general language model.

## Training

{recipe["steps"]} steps, {training["tokens"]} tokens, {training["seconds"]:.0f} seconds on one CPU core, seed {recipe["seed"]}.
Each prompt follows one rule, and its examples show which one (relative frequencies in parentheses). In a list of points, the
last y is that of the line ({rules["line"]:g}) or repeats its x ({rules["repeated"]:g}). In a story, the answer is the
activity of the named person ({rules["named"]:g}), the name itself ({rules["asked"]:g}), or the activity in the first
({rules["opening"]:g}) or last sentence ({rules["closing"]:g}).
The training prompts contain no line of the test grid, and no pair of a name and an activity of the test grid. `{CARD}` contains
the whole recipe and the hashes of the code.

## Evaluation

Lists: mean |answer - y|. Stories: share of wrong answers. All answers are greedy, on prompts of seed {SEED}, with 95 %
bootstrap intervals over queries. The control has uninformative examples: the y are shuffled, or the answers do not occur in
their stories.

{done.to_markdown(disable_numparse=True)}

## In-context learning during training

Error by training step, without examples (none) and with the maximum number of examples (most: 8 lists or 2 stories); nan if no
answer is a number.

{curve.to_markdown(disable_numparse=True)}
"""
