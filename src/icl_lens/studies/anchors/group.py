"""Group of *Label Words are Anchors*, with the figures and tables that do not belong to a single study."""

from __future__ import annotations

from icl_lens.studies.group import Group
from icl_lens.studies.item import Item

GROUP = Group(
    package=__package__,
    paper=True,
    order=0,
    title="Label words are anchors",
    items=(
        Item(
            name="table_4",
            title="Templates and label words of each task",
            notebook="anchors/table_4",
        ),
    ),
)
