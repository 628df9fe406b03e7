"""One figure or table: which prompt sets, tasks and studies it shows, and which notebook draws it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One figure or table.

    Attributes:
        name: Its name as a Snakemake target, ``figure_3`` or ``table_4``.
        title: What it shows, in the paper's words.
        notebook: The notebook under ``notebooks/`` that draws it, with its folder and without its ending: ``anchors/figure_3``.
            For a study outside the package, the notebook in the study's own folder: ``recency``.
        set: The prompt set it reads; empty when it reads none.
        studies: The artifacts it reads, per model and task.
        tensors: Those of them that it reads the tensors beside of, too.
        tasks: The tasks the paper shows in it; empty for every configured task.
        stand_ins: Tasks, the likeliest first, of which it shows one where none of ``tasks`` is configured. Such an item is
            about one task, so it shows a task of the user's own only where the config says so.
        paper_models: The models the paper shows in it; empty where its notebook does not say so.
        hubs: The models that it is about, by their names on the hub; empty for every configured one. Another model is shown
            only where the config says so.
        reads: Tables that it reads whatever is configured, relative to the results folder.
        one_prompt: Whether it draws a single prompt in some layers, which the config names.
        group: The target that makes it together with others of its kind: the paper, or the plugin, whose folder it stands in.
        in_all: Whether ``all`` makes it, too.
        over_training: Whether it shows models at several steps of their training, and so only those that say their step.
        own_tasks: Whether its tasks are written for it alone: no corpus, and the models that the config names for it.
        compares_precisions: Whether it compares number formats, and so shows only models that are there in float32 with exact
            products and in another format or with fast products.
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
        """The notebook's name without its folder; items with the same one are one picture of different prompts."""
        return self.notebook.rpartition("/")[2]

    @property
    def kind(self) -> str:
        """``figure`` or ``table``."""
        return "table" if "table" in self.name.split("_") else "figure"

    def stand_in_note(self, shown: Iterable[str]) -> list[str]:
        """A sentence that says which tasks stand in for those that the paper shows; none where none does.

        Args:
            shown: The tasks that are shown.
        """
        shown = list(dict.fromkeys(shown))
        if not self.stand_ins or set(shown) & set(self.tasks):
            return []
        return [f"The paper shows {', '.join(self.tasks)} here, which is not configured; {', '.join(shown)} stands in for it."]
