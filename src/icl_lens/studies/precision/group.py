"""Group of the table that compares number formats; it shows several studies of another group and defines none."""

from __future__ import annotations

from icl_lens.studies.group import Group
from icl_lens.studies.item import Item

GROUP = Group(
    package=__package__,
    paper=False,
    order=5,
    items=(
        Item(
            name="table_precision",
            title="How far float16, bfloat16 and fast products move each result from exact float32",
            notebook="precision/table_precision",
            set="fresh-1shot",
            studies=("saliency", "isolation", "deep_attention", "icl"),
            in_all=False,
            compares_precisions=True,
        ),
    ),
)
