"""The contract of a study: what it reads, what it returns, what it costs, and which figures show it.

A study is a folder with four files at most: ``study.py`` (its :class:`Study`, named ``STUDY``, without torch), ``compute.py``
(the equations with their source, and ``compute``), ``summary.py`` (what its figures show), and ``__init__.py``.
docs/extending.md adds one step by step.

``compute`` returns the study's rows, each with its prompt_id. It takes, by name except the model:

- ``model``: the loaded :class:`~icl_lens.models.language_model.LanguageModel`, of any supported family;
- ``prompts``: the prompts as the model reads them (:class:`~icl_lens.prompts.positions.TokenizedPrompt`); they fit its context;
- ``batch_tokens``: tokens per batch, padding included (:func:`icl_lens.models.batching.batches`); it changes no result;
- ``progress``: a function to call with the number of prompts that have been finished since the last call, all conditions
counted;
- ``settings``: an instance of the study's settings, where it has some; None stands for the defaults;
- what the study's ``inputs`` prepare, by name.

A study that reads nothing has ``compute(settings, progress)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item


@dataclass(frozen=True)
class Keys:
    """The keys of the config under ``studies`` that hold a study's settings; two studies may share them.

    Attributes:
        name: The key, ``isolation``.
        section: The settings, with their defaults and descriptions.
        description: What they decide, for the config.
    """

    name: str
    section: type[Section]
    description: str


@dataclass(frozen=True)
class Further:
    """A further prompts table that a study reads.

    Attributes:
        option: The command's option for it, without hyphens before it; ``inputs`` is given the table under this name.
        help: What the table is, for the command's help.
        set: The prompt set, or a function from the settings to it.
    """

    option: str
    help: str
    set: str | Callable[[Any], str]

    def set_name(self, settings: Section | None) -> str:
        """The prompt set's name."""
        return self.set if isinstance(self.set, str) else self.set(settings)


@dataclass(frozen=True)
class Study:
    """What a study is.

    Attributes:
        package: The folder's package, ``__package__`` in its ``study.py``; the last part of it is the study's name.
        help: What it finds, for the command's help.
        schema: Of the table that it writes.
        cost: What a job is estimated to take.
        settings: Its keys in the config, if it leaves anything to choose.
        reads: The kind of prompts table that it reads; None for a study that reads no prompts and runs no model.
        further: The further prompts tables that it reads.
        inputs: The name of the function in ``compute.py`` that prepares what ``compute`` takes, from what was read
            (:class:`icl_lens.studies.inputs.Given`), where that is not simply the prompts that fit the model.
        tensors: Whether ``compute`` returns tensors beside its rows, as a pair; they are written into a file beside the table.
        checkpoints: Folders of further checkpoints that it runs, by name, from the settings.
        alone: Whether a job has all cores because it measures time.
        walked: Whether the report walks its reader through one prompt of it.
        items: The figures and tables about it.
    """

    package: str
    help: str
    schema: Schema
    cost: Cost
    settings: Keys | None = None
    reads: Schema | None = PROMPTS
    further: tuple[Further, ...] = ()
    inputs: str = ""
    tensors: bool = False
    checkpoints: Callable[[Any], Mapping[str, str]] | None = None
    alone: bool = False
    walked: bool = False
    items: tuple[Item, ...] = field(default=())

    def __post_init__(self) -> None:
        types: dict[str, Any] = {
            "package": str,
            "help": str,
            "schema": Schema,
            "cost": Cost,
            "settings": (Keys, type(None)),
            "reads": (Schema, type(None)),
            "further": tuple,
            "inputs": str,
            "tensors": bool,
            "alone": bool,
            "walked": bool,
            "items": tuple,
        }
        for name, kind in types.items():
            if not isinstance(getattr(self, name), kind):
                wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
                self._refuse(name, f"is {getattr(self, name)!r}; it must be of type {wanted}")
        if "." not in self.package:
            self._refuse("package", f"is {self.package!r}; it must be __package__")
        for name, kind in (("further", Further), ("items", Item)):
            for entry in getattr(self, name):
                if not isinstance(entry, kind):
                    self._refuse(name, f"holds {entry!r}; each entry must be of type {kind.__name__}")
        if self.settings and not (isinstance(self.settings.section, type) and issubclass(self.settings.section, Section)):
            self._refuse(
                "settings", f"hold {self.settings.section!r}; they must be a class derived from icl_lens.section.Section"
            )
        if self.checkpoints is not None and not callable(self.checkpoints):
            self._refuse("checkpoints", f"is {self.checkpoints!r}; it must be a function of the settings")
        for item in self.items:
            for name in ("name", "title", "notebook", "set"):
                if not isinstance(getattr(item, name), str):
                    self._refuse("items", f"hold {item.name} with {name}={getattr(item, name)!r}; it must be a string")
            for name in ("studies", "tensors", "tasks", "stand_ins", "hubs", "reads"):
                if not isinstance(getattr(item, name), tuple):  # a string would be read letter by letter
                    self._refuse("items", f"hold {item.name} with {name}={getattr(item, name)!r}; it must be a tuple")
        if self.schema.kind != self.name:
            self._refuse("schema", f"is of kind {self.schema.kind!r}; it must have the study's name")
        if self.schema.stage != ("studies" if self.reads else "synthetic"):
            wanted = "studies" if self.reads else "synthetic, because the study reads no prompts"
            self._refuse("schema", f"has stage {self.schema.stage!r}; it must be {wanted}")
        if self.reads and not {"model", "task", "set", "seed", "prompt_id"} <= set(self.schema.columns):
            self._refuse("schema", "lacks columns that every study has; make it with study_schema")
        if self.reads is None:
            for name in ("further", "inputs", "tensors", "checkpoints"):
                if getattr(self, name):
                    self._refuse(name, "is for studies that read prompts, but reads is None")
        for each in self.further:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", each.option) or each.option in ("prompts", "model", "checkpoints"):
                self._refuse("further", f"holds the option {each.option!r}; take another name of lower-case letters")
        if self.checkpoints is not None and self.settings is None:
            self._refuse("checkpoints", "come from the settings, but the study has none")
        names = [item.name for item in self.items]
        for name in names:
            if names.count(name) > 1:
                self._refuse("items", f"hold {name} twice")
        object.__setattr__(self, "items", tuple(replace(item, group=self.group) for item in self.items))

    def _refuse(self, name: str, fault: str) -> None:
        own = self.name if isinstance(self.package, str) else repr(self.package)
        raise InputError(f"study {own}: {name} {fault}")

    @property
    def name(self) -> str:
        """The study's name, in paths and in the command (there with hyphens)."""
        return self.package.rpartition(".")[2]

    @property
    def group(self) -> str:
        """The group that its items belong to: its paper's folder, or its own for one outside the package."""
        parts = self.package.split(".")
        return parts[-1] if parts[-2:-1] == ["plugins"] else parts[-2]

    @property
    def module(self) -> str:
        """The module that computes it."""
        return f"{self.package}.compute"

    @property
    def command(self) -> str:
        """The name of its command."""
        return self.name.replace("_", "-")

    @property
    def contract(self) -> list[Any]:
        """What the declaration decides of the table, which is not in the hash of the code."""
        columns = [f"{name}: {kind}" for name, kind in self.schema.columns.items()]
        return [self.schema.version, columns, self.inputs, self.reads.kind if self.reads else "", self.tensors]

    def item(self, name: str) -> Item:
        """The figure or table of that name."""
        return next(item for item in self.items if item.name == name)

    def function(self, name: str) -> Callable:
        """A function of ``compute.py``, which is loaded with all that it needs.

        Raises:
            InputError: There is no such function.
        """
        function = getattr(import_module(self.module), name, None)
        if not callable(function):
            where = "inputs: " if name == self.inputs else ""
            raise InputError(f"study {self.name}: {where}{self.module} has no function {name}()")
        return function
