"""A group of figures and tables that one target makes: a paper, or what stands beside the papers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from icl_lens.studies.item import Item


@dataclass(frozen=True)
class Group:
    """What a folder under ``studies/`` is, beside the studies in it.

    Attributes:
        package: The folder's package, ``__package__`` in its ``group.py``; the last part of it is the group's name.
        paper: Whether it is a paper that is rebuilt: ``all`` makes it, and its claims stand in ``resources/claims``.
        order: Where it stands among the groups, ascending.
        title: Its heading on the report's page; the group's name by default.
        items: Figures and tables that show no study, or several studies of the group with none that they are about.
    """

    package: str
    paper: bool
    order: int
    title: str = ""
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(replace(item, group=self.name) for item in self.items))

    @property
    def heading(self) -> str:
        """The heading of its figures on the report's page."""
        return self.title or self.name

    @property
    def name(self) -> str:
        """The name of the target, ``anchors``."""
        return self.package.rpartition(".")[2]

    def item(self, name: str) -> Item:
        """The figure or table of that name."""
        return next(item for item in self.items if item.name == name)
