"""Names of the sets of attention edges that the studies of this group cut or attribute. No numpy and no torch here.

An edge connects a row (the position that attends) with a column (an earlier position). Each set has rows and columns:

    last             the last position q                        -> a class of tokens of the demonstrations, or all of them
    query            each position of the query, including q    -> the same columns
    label            each token of a label word                 -> the text of its own demonstration, or earlier demonstrations
    demonstration    each token of a demonstration              -> all earlier demonstrations

The classes are in :mod:`icl_lens.studies.challenges.token_classes`, and :mod:`icl_lens.studies.challenges.edges` finds the
edges in a prompt. Position 0 belongs only to the columns ``first``: it is an attention sink in many models, so cutting it has
an effect of its own.
"""

from __future__ import annotations

from typing import NamedTuple


class EdgeSet(NamedTuple):
    """A set of edges, by the names of its rows and of its columns."""

    rows: str
    columns: str


COLUMNS = ("label", "after", "template", "stop", "content", "first", "all")
"""Columns of the rows ``last`` and ``query``."""

ROWS = ("last", "query", "label", "demonstration")

SETS = (
    *(EdgeSet(rows, columns) for rows in ("last", "query") for columns in COLUMNS),
    EdgeSet("label", "text"),
    EdgeSet("label", "others"),
    EdgeSet("demonstration", "earlier"),
)
"""All sets, in the order of the tables."""
