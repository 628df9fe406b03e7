"""Compare the two kinds of random draws of isolation (``draw: order`` and ``draw: prompt``) on a model and its prompts.

    .venv/bin/python benchmarks/isolation_draws.py loyalty FOLDER RESULTS
    .venv/bin/python benchmarks/isolation_draws.py positions FOLDER RESULTS

FOLDER is a model, RESULTS the folder of a run on SST-2 and AGNews with the prompt set shared-1shot, for example
``snakemake figure_5 --cores all --configfile config/gemma-real.yaml``.

`loyalty` isolates random tokens in 5 layers with both kinds of draws. It prints label and word loyalty and their paired
difference.

`positions` counts the token positions that pass through the attention modules, for the prompts of one seed and the default
conditions with one draw. It runs a narrow copy of the model with random weights, because the weights do not change the count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from icl_lens.artifacts import parquet
from icl_lens.models import loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.layers import attention_modules
from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.prompts.schema import PROMPTS
from icl_lens.statistics import resampling
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.studies.anchors.isolation import compute as isolation

BATCH_TOKENS = 4096
KEY = ["task", "seed", "prompt_id", "query_index"]
METRICS = {"label": "label_agrees", "word": "word_jaccard_5"}
# Task -> number of prompts per seed.
PROMPTS_PER_SEED = {"sst2": 30, "agnews": 24}
SEEDS = (42, 43, 44, 45, 46, 47)
LAYERS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loyalty", "positions"))
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    paths = {task: arguments.results / "prompts" / task / "shared-1shot.parquet" for task in PROMPTS_PER_SEED}
    tables = {task: parquet.read(path, PROMPTS)[0] for task, path in paths.items()}
    {"loyalty": loyalty, "positions": positions}[arguments.what](arguments.model, tables)


def loyalty(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Print label and word loyalty for both kinds of draws, and their paired difference."""
    model = loading.load(folder, device="cpu")
    rows = pd.concat(
        [
            _isolated(model, _prompts(table, model.tokenizer, seed, PROMPTS_PER_SEED[task]), draw)
            .merge(table[KEY], on="prompt_id")
            .assign(draw_of=draw)
            for task, table in tables.items()
            for seed in SEEDS
            for draw in ("order", "prompt")
        ],
        ignore_index=True,
    )
    orders = rows.loc[rows.draw_of == "order", [*KEY, "order"]].drop_duplicates()
    print("| layers | loyalty | `draw: order` | `draw: prompt` | difference |\n|---|---|---|---|---|")
    for side in ("first", "last"):
        for name, metric in METRICS.items():
            values = rows[rows.side == side].pivot_table(index=KEY, columns="draw_of", values=metric, aggfunc="mean").dropna()
            values = values.astype(float).reset_index().merge(orders, on=KEY)
            values["difference"] = values["order_x"] - values["prompt"]
            by_order = resampling.mean(values, ["order_x"], cluster="order_y", bounds=(0.0, 1.0))[0]
            by_prompt = resampling.mean(values, ["prompt"], bounds=(0.0, 1.0))[0]
            difference = resampling.mean(values, ["difference"], cluster="order_y", bounds=(-1.0, 1.0))[0]
            cells = [f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in (by_order, by_prompt, difference)]
            print(f"| {side} {LAYERS} | {name} | {' | '.join(cells)} |")


def _isolated(model: LanguageModel, prompts: list[TokenizedPrompt], draw: str) -> pd.DataFrame:
    settings = Settings(layers=[LAYERS], draws=1, draw=draw, targets=["random"])
    rows = isolation.compute(model, prompts, BATCH_TOKENS, settings=settings)
    return rows[rows.target == "random"]


def positions(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Print the number of token positions for both kinds of draws, relative to a single order per seed."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    shape = config.get_text_config()
    shape.hidden_size, shape.intermediate_size, shape.head_dim = 16, 16, 16
    shape.num_attention_heads = shape.num_key_value_heads = 1
    network = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = LanguageModel("narrow copy", network, tokenizer, "float32", {"name": "narrow copy"})
    count = 0

    def add(_module: object, arguments: tuple, named: dict, _output: object) -> None:
        nonlocal count
        states = named["hidden_states"] if "hidden_states" in named else arguments[0]  # (B, T, d)
        count += states.shape[0] * states.shape[1]

    for module in attention_modules(network):
        module.register_forward_hook(add, with_kwargs=True)
    print("| task | one order | `draw: order` | `draw: prompt` |\n|---|---|---|---|")
    for task, table in tables.items():
        prompts = _prompts(table, tokenizer, SEEDS[0], 30)
        # The first call checks the model, with passes of its own.
        isolation.compute(model, prompts[:1], BATCH_TOKENS, settings=Settings(targets=["label"], layers=[1]))
        counts = []
        for options in ({"orders": 1}, {}, {"draw": "prompt"}):
            count = 0
            isolation.compute(model, prompts, BATCH_TOKENS, settings=Settings(draws=1, **options))
            counts.append(count)
        more = [f"{100 * (each / counts[0] - 1):.0f} % more" for each in counts[1:]]
        print(f"| {task} | {counts[0]} | {' | '.join(more)} |")


def _prompts(table: pd.DataFrame, tokenizer: object, seed: int, number: int) -> list[TokenizedPrompt]:
    # Tokenize the whole table: orders are dealt out by the number of prompts of a seed.
    return [prompt for prompt in tokenize(table, tokenizer) if prompt.seed == seed][:number]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
