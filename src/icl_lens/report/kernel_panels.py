"""Panels of the figures of *In-context learning as kernel regression*, drawn from the tables of the studies' summaries.

The notebooks of the figures and :mod:`icl_lens.api.plot` call these functions.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from icl_lens.report import figures

TARGETS = {
    "model": ("agreement with the prediction", "most frequent prediction"),
    "truth": ("agreement with the gold label", "majority baseline"),
}
"""Title of the map of each target of :func:`icl_lens.studies.kernel_regression.heads.by_head`, and of the share of its most
frequent class."""

# Maximum number of heads of a map with written values.
_WRITTEN = 64


def head_map(axes: Axes, matrix: np.ndarray) -> AxesImage:
    """Draw shares between 0 and 1 as a map of layers and heads, with written values if there are few heads.

    Args:
        axes: Axes to draw on.
        matrix: Values, shape (L, H).
    """
    image = axes.imshow(matrix, cmap=figures.SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if matrix.size <= _WRITTEN:
        for (layer, head), value in np.ndenumerate(matrix):
            colour = "white" if value > 0.6 else "black"
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=figures.SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(mpl.ticker.MaxNLocator(nbins=12, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.tick_params(length=0)
    axes.set_xlabel("head (0 = first)")
    return image
