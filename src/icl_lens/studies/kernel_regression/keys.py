"""Config keys that the studies kernel_regression and kernel_regression_controls share."""

from __future__ import annotations

from icl_lens.studies.kernel_regression.settings import Settings
from icl_lens.studies.study import Keys

# The keys are separate from the settings so that no study's code hash includes the description.
KEYS = Keys(
    "kernel_regression",
    Settings,
    "Attention to demonstrations as the kernel of a regression, with baselines and controls.",
)
