"""Trains the embedded model from scratch: ``python -m icl_lens.organism.training --out FOLDER [--seed N]``.

The committed checkpoint is the product of exactly this command with its defaults; ``card.json`` beside the weights says
what made them and what they can do.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from icl_lens.organism import CHECKPOINT
from icl_lens.organism.architecture import build_model
from icl_lens.organism.card import training_code, write_card
from icl_lens.organism.optimisation import train
from icl_lens.organism.recipe import Material, Training

log = logging.getLogger(__name__)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes what ``from_pretrained`` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(config: Training, out: Path, *, log_file: Path | None = None, every: int = 50) -> None:
    """Trains, evaluates and writes the checkpoint with its card.

    Args:
        config: What to train.
        out: The checkpoint's folder.
        log_file: JSON lines of the training's figures; none by default.
        every: Steps between two of these lines.
    """
    torch.set_num_threads(config.threads)
    code = training_code()
    start = time.monotonic()
    material = Material.build(config)
    log.info("%d topics, %d tokens", len(material.bank.names), len(material.tokenizer))
    if log_file is not None:
        log_file.write_text("")
    sums: dict[str, float] = {}
    line: dict[str, float] = {}
    tokens = 0
    model = build_model(config.architecture, len(material.tokenizer), material.tokenizer.eos_token_id, config.seed)
    for step, figures in train(model, config, material):
        tokens += int(figures.pop("tokens"))
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        if step % every == 0 or step == config.steps:
            steps = (step - 1) % every + 1
            line = {"step": step, "seconds": time.monotonic() - start}
            line |= {name: round(value / steps, 4) for name, value in sums.items()}
            sums = {}
            log.info("%s", json.dumps(line))
            if log_file is not None:
                with log_file.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
    seconds = time.monotonic() - start
    save(model, material.tokenizer, out)
    write_card(out, config, code=code, seconds=seconds, tokens=tokens, last=line)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded model from scratch.")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="folder of the checkpoint (default: the package's)")
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--log", type=Path, help="JSON lines of the training's figures")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(Training(seed=arguments.seed, steps=arguments.steps), arguments.out, log_file=arguments.log)


if __name__ == "__main__":
    main()
