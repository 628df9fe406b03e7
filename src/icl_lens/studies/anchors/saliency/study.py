"""Declaration of the study ``saliency``: information flow by saliency in each layer."""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "saliency",
    {
        "layer": INTEGER,
        "s_wp": FLOAT,
        "s_pq": FLOAT,
        "s_ww": FLOAT,
        "s_wp_visible": FLOAT,
        "s_pq_visible": FLOAT,
        "s_ww_visible": FLOAT,
        "s_wp_bos": FLOAT,
        "s_wp_no_bos": FLOAT,
    },
    keys=("layer",),
    version=2,
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="S_wp, S_pq and S_ww for each prompt and layer",
    schema=SCHEMA,
    # Forward and backward, with frozen weights. The backward pass computes the attention weights again.
    cost=Cost(passes=2, attention=1.4, kept="graph"),
    shards="length",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="figure_3",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="anchors/figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("sst2", "agnews"),
        ),
        Item(
            name="figure_7",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="anchors/figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("trec", "emoc"),
        ),
        Item(
            name="figure_9",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, two demonstrations per class",
            notebook="anchors/figure_3",
            set="fresh-2shot",
            studies=("saliency", "icl"),
        ),
    ),
)
