"""Group with the figure of the training of the embedded model, which reads training logs and shows no study."""

from __future__ import annotations

from icl_lens.studies.group import Group
from icl_lens.studies.item import Item

GROUP = Group(
    package=__package__,
    paper=False,
    order=5,
    items=(
        Item(
            name="organism_learning_curve",
            title="Emergence of in-context learning: losses and accuracy by training step",
            notebook="organism/organism_learning_curve",
            reads=("training/training.parquet", "training/evaluation.parquet"),
            in_all=False,
        ),
    ),
)
