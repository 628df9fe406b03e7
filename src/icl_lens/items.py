"""The items of the paper as data: which prompt sets, tasks and studies a figure or table shows, and how it is drawn.

Figures 3, 7 and 9 of *Label Words are Anchors* are one picture of different tasks and shots, so they share a notebook.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One figure or table.

    Attributes:
        name: Its name as a Snakemake target, ``figure_3`` or ``table_4``.
        title: What it shows, in the paper's words.
        notebook: The notebook under ``notebooks/`` that draws it, without its ending.
        set: The prompt set it reads; empty when it reads none.
        studies: The artifacts it reads, per model and task.
        tasks: The tasks the paper shows in it; empty for every configured task.
    """

    name: str
    title: str
    notebook: str
    set: str = ""
    studies: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``figure`` or ``table``."""
        return self.name.partition("_")[0]


ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        Item(
            name="figure_3",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("sst2", "agnews"),
        ),
        Item(
            name="figure_7",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("trec", "emoc"),
        ),
        Item(
            name="figure_9",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, two demonstrations per class",
            notebook="figure_3",
            set="fresh-2shot",
            studies=("saliency", "icl"),
        ),
        Item(
            name="table_4",
            title="Templates and label words of each task",
            notebook="table_4",
        ),
    )
}
