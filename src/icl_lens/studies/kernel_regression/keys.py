"""The keys of the config that the studies kernel_regression and kernel_regression_controls share."""

from __future__ import annotations

from icl_lens.studies.kernel_regression.settings import Settings
from icl_lens.studies.study import Keys

# Apart from the settings, so that no study's code hash contains the sentence.
KEYS = Keys(
    "kernel_regression",
    Settings,
    "Attention to each demonstration as the kernel of a regression, its baselines and its controls.",
)
