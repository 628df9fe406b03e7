"""Result of a study that returns tensors besides its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd


class Result(NamedTuple):
    """The table and the tensors of a study.

    The tensors are not in ``DataFrame.attrs``, because pandas copies ``attrs`` in each operation, compares them in
    ``pandas.concat`` and writes them as JSON in ``to_parquet``, which fails for arrays.

    Attributes:
        rows: The table.
        tensors: Name -> tensor.
    """

    rows: pd.DataFrame
    tensors: Mapping[str, np.ndarray]
