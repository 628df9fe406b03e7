"""Groups of figures and tables that one target makes, for a paper or for additional checks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from icl_lens.studies.item import Item


@dataclass(frozen=True)
class Group:
    """Declaration of a folder under ``studies/``, in addition to the studies in it.

    Attributes:
        package: The folder's package, ``__package__`` in its ``group.py``. Its last part is the group's name.
        paper: Whether the group replicates one or more papers. The target ``all`` makes such a group, and its claims are in
            ``icl_lens/resources/claims``.
        order: Sort key among the groups, ascending.
        title: Heading on the report page; the group's name by default.
        items: Figures and tables that do not belong to a single study: they show no study, or several studies of the group.
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
        """Heading of the group's figures on the report page."""
        return self.title or self.name

    @property
    def name(self) -> str:
        """Name of the group and of its target, for example ``anchors``."""
        return self.package.rpartition(".")[2]

    def item(self, name: str) -> Item:
        """Return the figure or table with the given name."""
        return next(item for item in self.items if item.name == name)
