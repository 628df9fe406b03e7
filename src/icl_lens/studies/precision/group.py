"""Group with the table that compares number formats. It shows several studies of another group and defines no study."""

from __future__ import annotations

from icl_lens.studies.group import Group
from icl_lens.studies.item import Item

GROUP = Group(
    package=__package__,
    paper=False,
    order=6,
    items=(
        Item(
            name="table_precision",
            title="Deviation of results with float16, bfloat16 and fast products from exact float32",
            notebook="precision/table_precision",
            set="fresh-1shot",
            studies=("saliency", "isolation", "deep_attention", "icl"),
            in_all=False,
            compares_precisions=True,
        ),
    ),
)
