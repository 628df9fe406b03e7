"""Published sizes of the four data sets: the number of texts of each class in the splits that the paper uses.

The test labels of SST-2 are not public, so its ``test`` split is GLUE's dev split, as in the paper.
"""

from __future__ import annotations

# task -> split -> number of texts of each class, in the order of the class indices
COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "sst2": {"train": (29780, 37569), "test": (428, 444)},
    "trec": {"train": (86, 1250, 1162, 1223, 835, 896), "test": (9, 94, 138, 65, 81, 113)},
    "agnews": {"train": (30000, 30000, 30000, 30000), "test": (1900, 1900, 1900, 1900)},
    "emoc": {"train": (14948, 4243, 5463, 5506), "test": (4677, 284, 250, 298)},
}
