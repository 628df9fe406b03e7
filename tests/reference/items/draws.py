"""Random choices of the package, which are inputs of the reference items like the prompts.

This is the only module of the reference items that imports code of the package's studies. No function here averages or
compares anything. What is drawn is checked where it can be: a random position must be one that is allowed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from icl_lens.prompts.positions import tokenize
from icl_lens.statistics import halves as splits
from icl_lens.studies.anchors import controls
from icl_lens.studies.anchors.compression.compute import random_text_positions
from icl_lens.studies.anchors.isolated_positions import random_positions
from icl_lens.studies.anchors.isolating import Settings as IsolationSettings
from icl_lens.studies.kernel_regression.hidden_markov.compute import draw_model, draw_sequences
from icl_lens.studies.kernel_regression.hidden_markov.study import Settings as HiddenMarkovSettings
from icl_lens.studies.kernel_regression.kernel_regression_controls.compute import control_tables
from icl_lens.studies.kernel_regression.reconstruction import shuffled
from icl_lens.studies.kernel_regression.rewritten import rewriting
from icl_lens.studies.kernel_regression.rewritten.study import REWRITINGS
from icl_lens.studies.kernel_regression.rewritten.study import Settings as RewrittenSettings
from icl_lens.studies.kernel_regression.settings import Settings as KernelSettings

from .inputs import Prompt, Run, tokenized


def _package_prompt(run: Run, prompt: Prompt):
    """Return a prompt as the package tokenizes it; the number of its random order depends on its place among all prompts."""
    task, name = prompt["task"], prompt["set"].removesuffix("-shuffled")
    places = run.once(("places", task, name), lambda: _places(run, task, name))
    (found,) = tokenize(pd.DataFrame([prompt.row]), run.tokenizer)
    assert found.ids.tolist() == prompt.ids
    assert found.anchors.tolist() == prompt.anchors
    return dataclasses.replace(found, place=places[prompt["prompt_id"]])


def _places(run: Run, task: str, name: str) -> dict[int, int]:
    return {found.prompt_id: found.place for found in tokenize(pd.DataFrame(run.rows(task, name)), run.tokenizer)}


def isolated_at_random(run: Run, prompt: Prompt, draw: int, settings: dict) -> list[int]:
    """Return one position per demonstration: the random control of isolation (section 2.2)."""
    given = IsolationSettings(**{name: settings[name] for name in ("random_scope", "draws", "draw", "orders")})
    found = random_positions(_package_prompt(run, prompt), given, draw, run.tokenizer.bos_token_id).tolist()
    assert len(set(found)) == len(prompt.anchors)
    assert not set(found) & {*prompt.anchors, prompt.last, prompt.last - 1}
    return found


def kept_at_random(run: Run, prompt: Prompt, draw: int) -> list[int]:
    """Return one position in the text of each demonstration: Hidden_random of compression (section 3.2)."""
    return random_text_positions(_package_prompt(run, prompt), draw).tolist()


def training_orders(settings: dict, seed: int, prompts: int) -> list[list[int]]:
    """Return the order of the training prompts of re-weighting in each epoch."""
    generator = np.random.default_rng([settings["seed"], seed])
    return [generator.permutation(prompts).tolist() for _ in range(settings["epochs"])]


def shuffled_labels(run: Run, prompts: list[Prompt], seed: int) -> list[Prompt]:
    """Return prompts with the label words of their demonstrations permuted."""
    rows = controls.shuffle_labels(pd.DataFrame([prompt.row for prompt in prompts]), seed).to_dict("records")
    for row, prompt in zip(rows, prompts, strict=True):
        assert sorted(row["demo_labels"]) == sorted(prompt["demo_labels"])
        assert list(row["demo_labels"]) != list(prompt["demo_labels"])
    return [tokenized(row, run.tokenizer) for row in rows]


def untrained(model, seed: int):
    """Return a model with the initial weights of its architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(model.config).eval().requires_grad_(False)


def held_out(prompts: list, settings: dict) -> set[int]:
    """Return the prompt_id of the held-out prompts. Prompts with the same test text are held out together."""
    seeds, texts = [p["seed"] for p in prompts], [p["query_index"] for p in prompts]
    chosen = splits.held_out(seeds, texts, settings["held_out"], settings["seed"])
    assert 0 < sum(chosen) < len(prompts)
    assert not {t for t, held in zip(texts, chosen, strict=True) if held} & {
        t for t, held in zip(texts, chosen, strict=True) if not held
    }
    return {p["prompt_id"] for p, held in zip(prompts, chosen, strict=True) if held}


def halves(prompts: list, classes: list[int] | None = None) -> list[int]:
    """Return the half, 0 or 1, that the test text of each prompt belongs to."""
    seeds, texts = [p["seed"] for p in prompts], [p["query_index"] for p in prompts]
    found = splits.halves(seeds, texts, classes).tolist()
    assert all(len({h for h, t in zip(found, texts, strict=True) if t == text}) == 1 for text in set(texts))
    return found


def shuffled_within(labels: list[list[int]], generator: np.random.Generator) -> list[list[int]]:
    """Shuffle the labels of each prompt's demonstrations."""
    return shuffled(np.array(labels), generator).tolist()


def rewritten(run: Run, prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Return prompts with unchanged and with rewritten test texts, by the name of the rewriting."""
    rows = pd.DataFrame([prompt.row for prompt in prompts])
    settings = RewrittenSettings(**run.settings("rewritten"))
    tables = {"original": rows, **{name: rewriting.rewrite(rows, name, settings) for name in REWRITINGS[1:]}}
    return {name: [tokenized(row, run.tokenizer) for row in table.to_dict("records")] for name, table in tables.items()}


def replaceable_share(prompts: list[Prompt]) -> list[float]:
    """Return the share of words of each test text that have a rare synonym."""
    return [rewriting.share_replaced(prompt["text"][slice(*prompt["query_span"])]) for prompt in prompts]


def kernel_regression_controls(run: Run, task: str, name: str, settings: dict) -> dict[tuple[str, int], list[Prompt]]:
    """Return the prompts of each control of kernel regression, by its name and the number of the order."""
    tables = control_tables(pd.DataFrame(run.rows(task, name)), KernelSettings(**settings))
    found = {}
    for key, table in tables.items():
        control, _, number = key.rpartition("_") if key.startswith("order_") else (key, "", 0)
        found["none" if key == "prompts" else control, int(number)] = [
            tokenized(row, run.tokenizer) for row in table.to_dict("records")
        ]
    return found


def hidden_markov(settings: dict, seed: int) -> tuple[tuple, list, list, list]:
    """Draw a random hidden Markov model and its sequences.

    Returns:
        Transitions and emissions; the pre-training sequences; (task, query, demonstrations) of each prompt; and for each task,
        the demonstrations that stand for infinitely many. A query or a demonstration ends with its label.
    """
    given, generator = HiddenMarkovSettings(**settings), np.random.default_rng(seed)
    model = draw_model(given, generator)
    pretraining = draw_sequences(model, generator.integers(0, given.tasks, given.pretraining), given.length, generator)
    tasks = generator.integers(0, given.tasks, given.trials)
    queries = draw_sequences(model, tasks, given.length + 1, generator).tolist()
    most = max(given.demonstrations)
    drawn = draw_sequences(model, np.repeat(tasks, most), given.length + 1, generator)
    shared = draw_sequences(model, np.repeat(np.arange(given.tasks), given.limit), given.length + 1, generator)
    demonstrations = drawn.reshape(given.trials, most, -1).tolist()
    prompts = list(zip(tasks.tolist(), queries, demonstrations, strict=True))
    shared_by_task = shared.reshape(given.tasks, given.limit, -1).tolist()
    return (model.transitions, model.emissions), pretraining.tolist(), prompts, shared_by_task
