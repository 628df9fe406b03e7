"""Replicates of a figure's or table's values: the estimates from which values of several rows are combined.

The interval of a difference or mean of rows cannot be computed from the ends of their intervals, because rows share prompts and
demonstrations. A summary table therefore has, next to each interval, a column of estimates
(:meth:`icl_lens.statistics.resampling.Estimate.columns`). It is not in the CSV. This module writes it as
``{item}.replicates.safetensors``, and reads it.

The file has blocks of rows with the same prompts. Its metadata lists, for each block, the CSV rows (from 0), the column of the
lower end of the interval, and the facts of the estimates. Tensors of block b, with K rows: ``b.value`` (K,), ``b.over_prompts``
(R, K), ``b.left_out`` (S, K) unless each prompt has its own demonstrations, and ``b.over_texts`` (2, R, K) if texts recur.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icl_lens.artifacts import tensors
from icl_lens.errors import InputError
from icl_lens.statistics.resampling import Estimate

COLUMN = "replicates"
"""Name of the column of estimates, after the prefix of the interval's columns."""

ENDING = ".replicates.safetensors"

# Number of resamples in the file. They only estimate variances.
_RESAMPLES = 400

_FACTS = ("groups", "prompts", "texts", "level", "sample", "bounds")


def without(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without its columns of estimates."""
    return table.drop(columns=_columns(table))


def write(table: pd.DataFrame, stem: Path | str) -> None:
    """Write the estimates of a table next to its CSV.

    Args:
        table: The table, with its columns of estimates. A row without an estimate has a missing value there. An estimate
            without an interval is not written.
        stem: Common path of the item's files without extension.
    """
    blocks: dict[tuple, list[tuple[int, Estimate]]] = {}
    for column in _columns(table):
        low = f"{column.removesuffix(COLUMN)}low"
        for row, estimate in enumerate(table[column]):
            if isinstance(estimate, Estimate) and _has_interval(estimate):
                facts = tuple(getattr(estimate, name) for name in _FACTS)
                kinds = (len(estimate.over_prompts), estimate.left_out is None, estimate.over_texts is None)
                blocks.setdefault((low, *kinds, *facts), []).append((row, estimate))
    arrays: dict[str, np.ndarray] = {}
    listed = []
    for number, ((low, _, _, _, *facts), members) in enumerate(blocks.items()):
        of_block = [estimate for _, estimate in members]
        listed.append({"low": low, "rows": [row for row, _ in members], **dict(zip(_FACTS, facts, strict=True))})
        arrays[f"{number}.value"] = np.array([float(each.value) for each in of_block])  # (K,)
        arrays[f"{number}.over_prompts"] = _thinned([each.over_prompts for each in of_block])  # (R, K)
        if of_block[0].left_out is not None:
            arrays[f"{number}.left_out"] = np.stack([each.left_out for each in of_block], axis=-1)  # (S, K)
        if of_block[0].over_texts is not None:
            arrays[f"{number}.over_texts"] = np.stack(
                [_thinned([each.over_texts[kind] for each in of_block]) for kind in (0, 1)]
            )  # (2, R, K)
    tensors.write(f"{stem}{ENDING}", arrays, {"blocks": listed})


def read(path: Path | str) -> dict[tuple[int, str], Estimate]:
    """Read the estimates of an item.

    Returns:
        CSV row (from 0) and column of the lower end of the interval -> estimate of one value. The estimates have fewer
        resamples than those from which the CSV's intervals were computed.

    Raises:
        InputError: The file is missing or corrupted.
    """
    arrays, metadata = tensors.read(path)
    try:
        return {key: estimate for block in enumerate(metadata["blocks"]) for key, estimate in _of_block(arrays, *block)}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} is not a file of replicates (corrupted); delete it with `icl-lens audit --repair` and rerun the command "
            "that made it"
        ) from error


def _of_block(arrays: Mapping[str, np.ndarray], number: int, block: Mapping[str, Any]):
    """Yield the key and the estimate of each row of a block."""
    value, over_prompts = (arrays[f"{number}.{name}"] for name in ("value", "over_prompts"))
    left_out, over_texts = (arrays.get(f"{number}.{name}") for name in ("left_out", "over_texts"))
    facts = {name: block[name] for name in _FACTS} | {
        "groups": tuple(block["groups"]),
        "bounds": None if block["bounds"] is None else tuple(block["bounds"]),
    }
    for place, row in enumerate(block["rows"]):
        yield (
            (int(row), block["low"]),
            Estimate(
                value=value[place],
                over_prompts=over_prompts[:, place].astype(float),
                left_out=None if left_out is None else left_out[:, place],
                over_texts=None if over_texts is None else over_texts[..., place].astype(float),
                **facts,
            ),
        )


def _columns(table: pd.DataFrame) -> list[str]:
    return [name for name in table if str(name).endswith(COLUMN)]


def _has_interval(estimate: Estimate) -> bool:
    return estimate.left_out is not None or not np.isnan(estimate.over_prompts).all()


def _thinned(resampled: list[np.ndarray]) -> np.ndarray:
    """Return the first resamples of several values, in single precision, shape (R, K)."""
    return np.stack([each[:_RESAMPLES] for each in resampled], axis=-1).astype(np.float32)
