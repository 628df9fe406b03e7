"""Names of the classes of edges and of the attributions of the study ``ch_saliency``. This module does not import torch."""

from __future__ import annotations

from icl_lens.studies.challenges.edge_sets import SETS, EdgeSet

LAYER = "layer"
"""All edges of a layer, including the diagonal."""

EDGES = (
    "wp",
    "pq",
    "ww",
    *(f"{rows} -> {columns}" for rows, columns in SETS if EdgeSet(rows, columns) != EdgeSet("last", "label")),
)
"""Classes of edges, in the order of the tables: the paper's three, and those of
:mod:`icl_lens.studies.challenges.edge_sets`. The class ``last -> label`` is left out, because it is ``pq`` if each
token of each label word is an anchor, for example if each label word is one token."""

BEFORE_QUERY = tuple(name for name in EDGES if name == "wp" or name.startswith(("label ->", "demonstration ->")))
"""Classes of which all edges lead to positions before the query. In the last layer, they have no effect on a prediction."""

ANSWERS = ("gold", "own")
"""Whose loss is attributed: that of the gold label, or that of the model's own answer."""

QUANTITIES = ("loss", "margin")
"""What is attributed, see :mod:`icl_lens.studies.challenges.margin`."""

ATTRIBUTIONS = {
    "attention": "attention",
    "value_zeroing": "value zeroing",
    "abs_of_sum": "|sum over heads| (paper)",
    "sum_of_abs": "sum of |heads|",
    "largest_head": "largest head",
    "signed": "sum with sign",
    "ig": "integrated gradients",
}
"""Attributions of a class of edges, and their names in a legend."""

TRUTHS = {"truth_post": "weights set to 0", "truth_pre": "scores masked"}
"""Effects of a cut, and their names in a legend."""
