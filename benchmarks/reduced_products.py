"""Effect of `matmul: fast` on a model's results on a CPU with bfloat16 products, emulated where the CPU has none.

    .venv/bin/python benchmarks/reduced_products.py --model FOLDER --data FOLDER [--tasks sst2 agnews] [--queries N]

The script runs each study of `table_precision` twice on the same prompts and prints that table. One run uses exact products.
The other run rounds both factors of each product to bfloat16 and sums in float32 (`tests/reduced_products.py`). The emulation
is slower than exact products, so the script does not measure speed. The emulation reproduces the format of factors and sums.
Real hardware may sum in another order and may compute some products in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import contest
import papermill
import torch

from icl_lens.corpora import tables
from icl_lens.models import loading
from icl_lens.prompts import protocol
from icl_lens.studies import registry, run
from icl_lens.studies.anchors.isolating import Settings as Isolation
from icl_lens.tasks.task import TASKS
from tests.reduced_products import emulated

ITEM = registry.items()["table_precision"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with a checkpoint and its tokenizer")
    parser.add_argument(
        "--data", type=Path, help="a folder of the original files (sst2/, trec/, agnews/); built-in texts without it"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sst2", "agnews"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--queries", type=int, default=5, help="prompts per task and seed")
    parser.add_argument("--layers", nargs="+", type=int, default=[5], help="numbers of isolated layers")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    loaded = loading.load(options.model, device="cpu")
    loading.load = lambda folder, name, device, dtype: replace(loaded, name=name)  # load the model once for all studies
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        folders = [
            str(_run_studies(results, task, name, options))
            for task in options.tasks
            for name in (loaded.name, f"{loaded.name}-fast")
        ]
        papermill.execute_notebook(
            str(Path(__file__).resolve().parents[1] / f"notebooks/{ITEM.notebook}.ipynb"),
            None,
            {"item": ITEM.name, "out": str(results / ITEM.name), "studies": folders},
            kernel_name="python3",
            progress_bar=False,
        )
        print((results / f"{ITEM.name}.md").read_text())


def _run_studies(results: Path, task: str, name: str, options: argparse.Namespace) -> Path:
    """Run a task's studies with exact products, or fast ones if the name ends in "-fast", and return their folder."""
    prompts_file = results / f"prompts/{task}/{ITEM.set}.parquet"
    if not prompts_file.exists():
        corpus = results / f"corpora/{task}.parquet"
        if options.data and task in contest._FILES:
            tables.write_files(task, *(options.data / task / file for file in contest._FILES[task]), corpus)
        else:
            tables.write_builtin(task, 0, corpus)
        protocol.write(TASKS[task], corpus, ITEM.set, options.seeds, options.queries, prompts_file)
    fast = name.endswith("-fast")
    folder = results / f"studies/{name}/{task}/{ITEM.set}"
    for study in ITEM.studies:
        start = time.process_time()
        settings = Isolation(targets=["label"], layers=options.layers) if study == "isolation" else None
        with emulated() if fast else contextlib.nullcontext():
            out = folder / f"{study}.parquet"
            run.run(
                registry.study(study),
                options.model,
                prompts_file,
                out,
                name=name,
                device="cpu",
                matmul="fast" if fast else "exact",
                batch_tokens=options.batch_tokens,
                settings=settings,
            )
        seconds = time.process_time() - start
        print(f"{study} of {name} on {task}: {seconds:.0f} CPU seconds, {torch.get_num_threads()} threads", file=sys.stderr)
    return folder


if __name__ == "__main__":
    main()
