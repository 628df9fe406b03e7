"""Commands that train and evaluate the two models included with icl-lens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icl_lens.cli import gpu_slots
from icl_lens.cli.options import Command, Device, Gpus, quieten_transformers

PANEL = "Training"

Corpora = Annotated[list[Path], typer.Option(help="One or more corpora tables, each named after its task.")]
Checkpoints = Annotated[Path, typer.Option(help="The folder of a training's checkpoints.")]
NewCheckpoints = Annotated[Path, typer.Option(help="The folder of checkpoints to create.")]
Facts = Annotated[Path, typer.Option(help="The JSON file that the training wrote.")]
CardFolder = Annotated[Path, typer.Option(help="The folder to create.")]

app = typer.Typer()


@app.command("training", cls=Command, rich_help_panel=PANEL)
def _training(
    corpora: Corpora,
    work: Annotated[Path, typer.Option(help="The folder for the state that an interrupted training resumes from.")],
    checkpoints: NewCheckpoints,
    facts: Annotated[Path, typer.Option(help="The JSON file to write: what determines the weights, and the cost.")],
    out: Annotated[Path, typer.Option(help="The training table to write.")],
    recipe: Annotated[str, typer.Option(help="The keys under `organism` in the config, as YAML.")] = "{}",
    device: Device = "auto",
    gpus: Gpus = 0,
) -> None:
    """Train a model that learns in context from scratch."""
    from icl_lens.config import parse

    gpu_slots.reserve(gpus, device)

    parsed = parse.parse_recipe(recipe)
    quieten_transformers()
    from icl_lens.organism import training

    training.run(parsed, corpora, work=work, checkpoints=checkpoints, table=out, facts=facts, device=device)


@app.command("evaluation", cls=Command, rich_help_panel=PANEL)
def _evaluation(
    checkpoints: Annotated[Path, typer.Option(help="The folder of a training's checkpoints, or of one checkpoint.")],
    facts: Annotated[Path, typer.Option(help="The JSON file that the training wrote, or a model card.")],
    corpora: Corpora,
    out: Annotated[Path, typer.Option(help="The evaluation table to write.")],
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts per cell at the last checkpoint.")] = 1000,
    curve_prompts: Annotated[int, typer.Option(min=1, help="Number of prompts per cell at the other checkpoints.")] = 200,
) -> None:
    """Evaluate the checkpoints of a trained model."""
    quieten_transformers()
    from icl_lens.organism import evaluation

    evaluation.run(checkpoints, facts, corpora, out, prompts=prompts, curve_prompts=curve_prompts)


@app.command("card", cls=Command, rich_help_panel=PANEL)
def _card(
    checkpoints: Checkpoints,
    facts: Facts,
    evaluation: Annotated[Path, typer.Option(help="The evaluation table.")],
    folder: CardFolder,
) -> None:
    """Copy the last checkpoint into a folder, and write its model card."""
    quieten_transformers()
    from icl_lens.organism import card

    card.write(checkpoints, facts, evaluation, folder)


@app.command("reader-training", cls=Command, rich_help_panel=PANEL)
def _reader_training(
    checkpoints: NewCheckpoints,
    out: Annotated[Path, typer.Option(help="The JSON file to write: what determines the weights, and the cost.")],
    recipe: Annotated[str, typer.Option(help="The keys under `reader_organism` in the config, as YAML.")] = "{}",
) -> None:
    """Train the second model, which reads lists and stories, from scratch."""
    from icl_lens.config import parse

    parsed = parse.parse_reader_recipe(recipe)
    quieten_transformers()
    from icl_lens.reader_organism import training

    training.run(parsed, checkpoints=checkpoints, facts=out)


@app.command("reader-card", cls=Command, rich_help_panel=PANEL)
def _reader_card(checkpoints: Checkpoints, facts: Facts, folder: CardFolder) -> None:
    """Evaluate the checkpoints of the second model, copy the last one into a folder, and write its model card."""
    quieten_transformers()
    from icl_lens.reader_organism import card

    card.write(checkpoints, facts, folder)
