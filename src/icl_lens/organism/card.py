"""The model card with the training details and the evaluation, as JSON (``card.json``) and as Markdown (``README.md``)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from icl_lens.artifacts import hashes, parquet
from icl_lens.artifacts.files import whole_folder
from icl_lens.errors import InputError
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.organism.evaluation import Measure, steps_of
from icl_lens.organism.schema import EVALUATION
from icl_lens.organism.training import read_facts, require_folder
from icl_lens.tasks.task import TASKS

CARD = "card.json"
README = "README.md"


def write(checkpoints: Path, facts: Path, evaluation: Path, out: Path) -> None:
    """Write the last checkpoint and its model card into one folder. The folder is never left incomplete.

    Args:
        checkpoints: The folder with the checkpoints of a training run.
        facts: The facts file of the training run.
        evaluation: The evaluation table.
        out: The output folder.

    Raises:
        InputError: If a file is missing or corrupted, if the evaluation table belongs to other checkpoints, or if the output
            folder contains other files.
    """
    require_folder("--folder", out, lambda entry: (out / CARD).is_file() and entry.is_file())
    training = read_facts(facts)
    table, about = parquet.read(evaluation, EVALUATION)
    folder = steps_of(checkpoints, training["steps"])[training["steps"]]
    files = checkpoint_files(folder)
    if about.get("checkpoints", {}).get(folder.name) != hashes.files_hash(files):
        raise InputError(f"{evaluation} belongs to other weights than those in {folder}; delete it and rerun the command")
    last = table[table["step"] == training["steps"]].drop(columns="step")
    card = {"training": training, "evaluation": last.to_dict("records")}
    with whole_folder(out) as unfinished:
        shutil.copytree(folder, unfinished, dirs_exist_ok=True)
        (unfinished / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (unfinished / README).write_text(render(card), encoding="utf-8")


def render(card: dict[str, Any]) -> str:
    """Render the model card as Markdown. All numbers are taken from ``card.json``."""
    training = card["training"]
    recipe = training["recipe"]
    shape, episodes = recipe["architecture"], recipe["episodes"]
    tasks = ", ".join(TASKS[task].title for task in training["corpora"])
    rows = [Measure(**row) for row in card["evaluation"]]
    table = pd.DataFrame(
        {
            "measure": [row.measure for row in rows],
            "on": [TASKS[row.on].title if row.on in TASKS else row.on for row in rows],
            "classes": [row.classes for row in rows],
            "per class": [row.shots for row in rows],
            "prompts": [row.prompts for row in rows],
            "chance ± 3 s.e.": [f"{row.chance:.3f} ± {3 * row.standard_error:.3f}" for row in rows],
            "model": [f"{row.model:.3f}" for row in rows],
            "top token": [f"{row.top_token:.3f}" for row in rows],
            "bag of words": [f"{row.bag_of_words:.3f}" for row in rows],
        }
    )
    first, most = episodes["demonstrations"]
    rungs = training["rungs"]
    facts = {
        "texts": f"training splits of {tasks}; {episodes['made_up_topics']} made-up topics of "
        f"{episodes['made_up_words']} words, {episodes['plain_text_topics']} of which occur in plain text only",
        "templates": f"those of the tasks, and {episodes['made_up_templates']} made-up ones",
        "episodes": f"{first} to {most} demonstrations, {episodes['classes'][0]} to {episodes['classes'][1]} classes",
        "cost": f"{training['steps']} steps, {training['episodes']} episodes, {training['tokens']} tokens, "
        f"{training['seconds']:.0f} seconds on {training['device']}",
        "curriculum": f"ended on rung {rungs['last']} of {rungs['of']}; {rungs['left unpassed']} rungs were not passed",
        "seed": str(recipe["seed"]),
    }
    made_by = pd.DataFrame({"": facts.keys(), " ": facts.values()})
    return f"""# A model that learns in context

A Llama of {shape["layers"]} layers, width {shape["width"]}, {shape["heads"]} heads and a context of {shape["context"]} tokens,
trained from scratch by icl-lens (`snakemake organism`) on classification episodes. The label words change from prompt to
prompt, so that only the demonstrations determine the answer. It is a model organism, not a general language model.

## Training

{made_by.to_markdown(index=False, disable_numparse=True)}

`{CARD}` contains the whole recipe, the hashes of texts and code, and the library versions.

## Evaluation

Accuracy on held-out texts, in float32, with the same number of queries per class. *Top token*: share of prompts for which the
correct label word is the most probable of all tokens. *Bag of words*: accuracy of a baseline in which the demonstrations vote
by the number of words that they share with the query.

{table.to_markdown(index=False, disable_numparse=True)}
"""
