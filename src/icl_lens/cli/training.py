"""Commands that train and evaluate the two models included with icl-lens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from icl_lens.cli.options import Add, positive, quieten_transformers
from icl_lens.config.keys import Device


def add(command: Add) -> None:
    """Add the training commands."""
    training = command("training", _training, "train a model that learns in context, from scratch")
    training.add_argument("--corpora", required=True, type=Path, nargs="+", help="corpora tables, each named after its task")
    training.add_argument("--recipe", default="{}", help="the keys under `organism` in the config, as YAML")
    training.add_argument("--device", default="auto", choices=get_args(Device))
    training.add_argument("--work", required=True, type=Path, help="a folder for what an interrupted training goes on from")
    training.add_argument("--checkpoints", required=True, type=Path, help="the folder of checkpoints to make")
    training.add_argument("--facts", required=True, type=Path, help="a JSON file: what decided the weights, what they cost")
    training.add_argument("--out", required=True, type=Path, help="the training table")

    evaluation = command("evaluation", _evaluation, "measure what a trained model can do")
    evaluation.add_argument("--checkpoints", required=True, type=Path, help="a training's checkpoints, or one of them")
    evaluation.add_argument("--facts", required=True, type=Path, help="what the training wrote, or a model card")
    evaluation.add_argument("--corpora", required=True, type=Path, nargs="+", help="corpora tables, each named after its task")
    evaluation.add_argument("--prompts", type=positive, default=1000, help="prompts in each cell, at the last checkpoint")
    evaluation.add_argument("--curve-prompts", type=positive, default=200, help="the same at the others")
    evaluation.add_argument("--out", required=True, type=Path, help="the evaluation table")

    card = command("card", _card, "put the last checkpoint and its model card into a folder")
    card.add_argument("--checkpoints", required=True, type=Path, help="a training's checkpoints")
    card.add_argument("--facts", required=True, type=Path, help="what the training wrote")
    card.add_argument("--evaluation", required=True, type=Path, help="the evaluation table")
    card.add_argument("--folder", required=True, type=Path, help="the folder to make")

    reader = command("reader-training", _reader_training, "train the second model, which reads lists and stories, from scratch")
    reader.add_argument("--recipe", default="{}", help="the keys under `reader_organism` in the config, as YAML")
    reader.add_argument("--checkpoints", required=True, type=Path, help="the folder of checkpoints to make")
    reader.add_argument("--out", required=True, type=Path, help="a JSON file: what decided the weights, what they cost")

    reader_card = command(
        "reader-card", _reader_card, "measure the second model's checkpoints, and put the last and its card into a folder"
    )
    reader_card.add_argument("--checkpoints", required=True, type=Path, help="its training's checkpoints")
    reader_card.add_argument("--facts", required=True, type=Path, help="what the training wrote")
    reader_card.add_argument("--folder", required=True, type=Path, help="the folder to make")


def _training(options: argparse.Namespace) -> None:
    from icl_lens.config import parse

    recipe = parse.parse_recipe(options.recipe)
    quieten_transformers()
    from icl_lens.organism import training

    training.run(
        recipe,
        options.corpora,
        work=options.work,
        checkpoints=options.checkpoints,
        table=options.out,
        facts=options.facts,
        device=options.device,
    )


def _evaluation(options: argparse.Namespace) -> None:
    quieten_transformers()
    from icl_lens.organism import evaluation

    evaluation.run(
        options.checkpoints,
        options.facts,
        options.corpora,
        options.out,
        prompts=options.prompts,
        curve_prompts=options.curve_prompts,
    )


def _card(options: argparse.Namespace) -> None:
    quieten_transformers()
    from icl_lens.organism import card

    card.write(options.checkpoints, options.facts, options.evaluation, options.folder)


def _reader_training(options: argparse.Namespace) -> None:
    from icl_lens.config import parse

    recipe = parse.parse_reader_recipe(options.recipe)
    quieten_transformers()
    from icl_lens.reader_organism import training

    training.run(recipe, checkpoints=options.checkpoints, facts=options.out)


def _reader_card(options: argparse.Namespace) -> None:
    quieten_transformers()
    from icl_lens.reader_organism import card

    card.write(options.checkpoints, options.facts, options.folder)
