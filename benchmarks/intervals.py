"""Time to compute confidence intervals.

.venv/bin/python benchmarks/intervals.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from icl_lens.statistics import attention_auc, resampling

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.coverage import table


def main() -> None:
    generator = np.random.default_rng(0)
    rows = table(generator.random((20, 1000)), tasks=4).assign(**{f"x{m}": 0.5 for m in range(48)})
    start = time.perf_counter()
    resampling.mean(rows, [f"x{m}" for m in range(48)])
    print(f"means, 4 tasks x 5 seeds x 1000 prompts x 48 columns, 1000 resamples: {time.perf_counter() - start:.1f} s")
    layers, classes, prompts = 48, 4, 1000
    index = pd.MultiIndex.from_product([range(prompts), range(layers), range(classes)], names=["prompt_id", "layer", "class"])
    scores = pd.DataFrame({"attention": generator.random(len(index))}, index=index).reset_index().assign(task="a", seed=42)
    predictions = pd.DataFrame({"task": "a", "seed": 42, "prompt_id": range(prompts)})
    start = time.perf_counter()
    attention_auc.auc_curve(scores, predictions.assign(prediction=generator.integers(0, classes, prompts)))
    print(f"AUC, 1 task x 1 seed x 1000 prompts x 48 layers x 4 classes, 1000 resamples: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
