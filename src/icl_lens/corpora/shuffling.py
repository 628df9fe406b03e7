"""Shuffled labels: a control in which texts and labels do not match."""

from __future__ import annotations

import numpy as np
import pandas as pd


def shuffle_labels(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a corpora table with the labels of each split permuted among its texts.

    The number of texts per class of a split does not change.

    Args:
        table: Corpora table.
        seed: Seed of the permutations.
    """
    generator = np.random.default_rng(seed)
    labels = table["label"].to_numpy().copy()
    for split in sorted(table["split"].unique()):
        rows = np.flatnonzero(table["split"].to_numpy() == split)
        labels[rows] = generator.permutation(labels[rows])
    return table.assign(label=labels)
