"""Declaration of a figure or table: which prompt sets, tasks and studies it shows, and which notebook draws it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A figure or table.

    Attributes:
        name: Name of the Snakemake target, for example ``figure_3`` or ``table_4``.
        title: Title, in the paper's words.
        notebook: Notebook under ``notebooks/`` that draws it, with its folder and without its extension, for example
            ``anchors/figure_3``. For a study outside the package, the notebook in the study's own folder, for example
            ``recency``.
        set: Prompt set that it reads; empty if it reads none.
        studies: Studies whose artifacts it reads, per model and task.
        tensors: The subset of ``studies`` for which it also reads the tensors.
        tasks: Tasks that the paper shows in it; empty for all configured tasks.
        stand_ins: Fallback tasks in order of preference. The item shows one of them if none of ``tasks`` is configured. An item
            with fallback tasks shows a single task, so it shows a user-defined task only if the config requests it.
        paper_models: Models that the paper shows in it; empty if the notebook does not name them.
        hubs: Models that it shows, by their names on the Hub; empty for all configured models. It shows other models only if
            the config requests them.
        reads: Tables that it always reads, independent of the config; paths relative to the results folder.
        one_prompt: Whether it draws a single prompt in some layers. The config names the prompt and the layers.
        group: Target that makes it together with the other items of the group: the paper or the plugin that contains it.
        in_all: Whether the target ``all`` also makes it.
        over_training: Whether it shows models at several training steps. It then shows only models with a known step.
        own_tasks: Whether it has its own tasks, which have no corpus, and its own models, which the config names for it.
        compares_precisions: Whether it compares number formats. It then shows only models that are available both in float32
            with exact products and in another format or with fast products.
    """

    name: str
    title: str
    notebook: str
    set: str = ""
    studies: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    paper_models: str = ""
    hubs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    one_prompt: bool = False
    group: str = ""
    in_all: bool = True
    own_tasks: bool = False
    compares_precisions: bool = False
    over_training: bool = False

    @property
    def drawn_by(self) -> str:
        """Name of the notebook without its folder. Items with the same notebook draw the same figure for different prompts."""
        return self.notebook.rpartition("/")[2]

    @property
    def kind(self) -> str:
        """Kind of the item, ``figure`` or ``table``."""
        return "table" if "table" in self.name.split("_") else "figure"

    def stand_in_note(self, shown: Iterable[str]) -> list[str]:
        """Return a list with one sentence that names the fallback tasks, or an empty list if the item shows none.

        Args:
            shown: The tasks that the item shows.
        """
        shown = list(dict.fromkeys(shown))
        if not self.stand_ins or set(shown) & set(self.tasks):
            return []
        return [f"Task here: {', '.join(shown)} (the paper uses {', '.join(self.tasks)}, which is not configured)."]
