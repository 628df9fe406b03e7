"""Contract of a study: what it reads, what it returns, what it costs, and which figures show it.

A study is a folder with at most four files: ``study.py`` (the :class:`Study`, named ``STUDY``; it does not import torch),
``compute.py`` (the equations with their source, and the function ``compute``), ``summary.py`` (the results that the figures
show), and ``__init__.py``. docs/extending.md shows step by step how to add a study.

``compute`` returns the study's rows, each with its prompt_id. It takes the model as a positional argument and all other
arguments by name:

- ``model``: the loaded :class:`~icl_lens.models.language_model.LanguageModel`, of any supported family;
- ``prompts``: the tokenized prompts (:class:`~icl_lens.prompts.positions.TokenizedPrompt`), which fit the model's context;
- ``batch_tokens``: number of tokens per batch, including padding (:func:`icl_lens.models.batching.batches`); it does not affect
  the results;
- ``progress``: a function to call with the number of prompts completed, in all conditions, since the last call;
- ``settings``: an instance of the study's settings, if it has settings; None means the defaults;
- the arguments that the study's ``inputs`` function prepares, by name.

If the study declares ``shards``, a job may need the results of only some of the prompts
(:attr:`~icl_lens.prompts.positions.TokenizedPrompt.needed`). ``compute`` then still returns the rows of all prompts, in the
same order, but the rows of the other prompts can have any values.

A study that reads no prompts has ``compute(settings, progress)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from icl_lens.artifacts.schema import Schema
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item

LABEL_VALUES = {"score": ("whole",), "anchor": ("last", "all")}
"""Values of the keys under ``labels`` in the config, besides ``first``."""

LABELS = tuple(value for values in LABEL_VALUES.values() for value in values)


@dataclass(frozen=True)
class Keys:
    """Config keys under ``studies`` that hold the settings of a study. Two studies may share them.

    Attributes:
        name: Name of the key, for example ``isolation``.
        section: Class of the settings, with their defaults and descriptions.
        description: Description of the settings, for the config.
    """

    name: str
    section: type[Section]
    description: str


@dataclass(frozen=True)
class Further:
    """A further prompts table that a study reads.

    Attributes:
        option: Command-line option for the table, without leading hyphens. The ``inputs`` function receives the table under
            this name.
        help: Description of the table, for the command's help.
        set: Name of the prompt set, or a function of the settings that returns it.
    """

    option: str
    help: str
    set: str | Callable[[Any], str]

    def set_name(self, settings: Section | None) -> str:
        """Return the name of the prompt set."""
        return self.set if isinstance(self.set, str) else self.set(settings)


@dataclass(frozen=True)
class Study:
    """Declaration of a study.

    Attributes:
        package: The folder's package, ``__package__`` in its ``study.py``. Its last part is the study's name.
        help: Description of the results, for the command's help.
        schema: Schema of the table that the study writes.
        cost: Estimated cost of a job.
        settings: Config keys of the study, if it has settings.
        reads: Schema of the prompts table that the study reads; None for a study that reads no prompts and runs no model.
        further: Further prompts tables that the study reads.
        inputs: Name of the function in ``compute.py`` that prepares the arguments of ``compute`` from an
            :class:`icl_lens.studies.inputs.Given`. If empty, ``compute`` receives the prompts that fit the model's context.
        tensors: Whether ``compute`` returns a pair of rows and tensors. The tensors are written to a separate file next to the
            table.
        checkpoints: Function of the settings that returns the folders of further checkpoints that the study runs, by name.
        shards: How a job can be split into shards (:mod:`icl_lens.studies.sharding`): ``prefix`` if the study batches prompts
            by shared prefix, ``length`` if it batches whole prompts. None if it must stay one job: its rows depend on prompts
            outside their batch, for example because the study trains on all prompts or selects some of them.
        needs_gold: Whether results other than the columns ``gold_columns`` depend on the gold labels of the queries. If not,
            the Python API also accepts queries whose correct label is unknown.
        gold_columns: Columns that depend on the gold label of the query, if ``needs_gold`` is False.
        labels: Values of the config keys under ``labels`` that the study supports besides ``first``: ``whole`` if it predicts
            classes by :func:`icl_lens.models.logits.class_scores` or does not predict them, and ``last`` and ``all`` if it
            reads :attr:`~icl_lens.prompts.positions.TokenizedPrompt.anchors` as positions of which a demonstration can have
            several, or does not read them.
        alone: Whether a job uses all cores because it measures time.
        walked: Whether the report page shows one prompt of this study step by step.
        shortage: Function of the settings, the number of seeds and the number of prompts per seed. It returns why these prompts
            are too few for the study, as the end of a sentence that names the keys to change; empty if they suffice.
        items: Figures and tables of this study.
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
    shards: Literal["prefix", "length"] | None = None
    needs_gold: bool = True
    gold_columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    alone: bool = False
    walked: bool = False
    shortage: Callable[[Any, int, int], str] | None = None
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
            "needs_gold": bool,
            "gold_columns": tuple,
            "labels": tuple,
            "alone": bool,
            "walked": bool,
            "items": tuple,
        }
        for name, kind in types.items():
            if not isinstance(getattr(self, name), kind):
                expected = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
                self._refuse(name, f"must be of type {expected}, got {getattr(self, name)!r}")
        if "." not in self.package:
            self._refuse("package", f"must be __package__, got {self.package!r}")
        for name, kind in (("further", Further), ("items", Item)):
            for entry in getattr(self, name):
                if not isinstance(entry, kind):
                    self._refuse(name, f"must contain only entries of type {kind.__name__}, got {entry!r}")
        if self.settings and not (isinstance(self.settings.section, type) and issubclass(self.settings.section, Section)):
            self._refuse(
                "settings", f"must contain a class derived from icl_lens.section.Section, got {self.settings.section!r}"
            )
        if self.checkpoints is not None and not callable(self.checkpoints):
            self._refuse("checkpoints", f"must be a function of the settings, got {self.checkpoints!r}")
        for name in self.gold_columns:
            if name not in self.schema.columns:
                self._refuse("gold_columns", f"contains {name!r}, which is not a column of the schema")
        if self.needs_gold and self.gold_columns:
            self._refuse("gold_columns", "are only for a study with needs_gold=False")
        for value in self.labels:
            if value not in LABELS:
                self._refuse("labels", f"must contain only {', '.join(map(repr, LABELS))}, got {value!r}")
        if self.shards not in (None, "prefix", "length"):
            self._refuse("shards", f"must be 'prefix', 'length' or None, got {self.shards!r}")
        if self.shards and (self.tensors or self.alone or self.reads is None):
            name = "tensors" if self.tensors else "alone" if self.alone else "reads=None"
            self._refuse("shards", f"must be None for a study with {name}, which is one job")
        if self.shortage is not None and not callable(self.shortage):
            self._refuse(
                "shortage", f"must be a function of the settings and the numbers of seeds and prompts, got {self.shortage!r}"
            )
        for item in self.items:
            for name in ("name", "title", "notebook", "set"):
                if not isinstance(getattr(item, name), str):
                    self._refuse("items", f"{item.name}: {name} must be a string, got {getattr(item, name)!r}")
            for name in ("studies", "tensors", "tasks", "stand_ins", "hubs", "reads"):
                if not isinstance(getattr(item, name), tuple):  # iterating over a string would yield its letters
                    self._refuse("items", f"{item.name}: {name} must be a tuple, got {getattr(item, name)!r}")
        if self.schema.kind != self.name:
            self._refuse("schema", f"must have the name of the study as its kind, got {self.schema.kind!r}")
        if self.schema.stage != ("studies" if self.reads else "synthetic"):
            expected = "studies" if self.reads else "synthetic, because the study reads no prompts"
            self._refuse("schema", f"must have stage {expected}, got {self.schema.stage!r}")
        if self.reads and not {"model", "task", "set", "seed", "prompt_id"} <= set(self.schema.columns):
            self._refuse("schema", "lacks columns that each study has; create it with study_schema")
        if self.reads is None:
            for name in ("further", "inputs", "tensors", "checkpoints"):
                if getattr(self, name):
                    self._refuse(name, "is only for studies that read prompts, but reads is None")
        for each in self.further:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", each.option) or each.option in ("prompts", "model", "checkpoints"):
                self._refuse(
                    "further", f"invalid or reserved option name {each.option!r}; use another name of lower-case letters"
                )
        if self.checkpoints is not None and self.settings is None:
            self._refuse("checkpoints", "depend on the settings, but the study has no settings")
        names = [item.name for item in self.items]
        for name in names:
            if names.count(name) > 1:
                self._refuse("items", f"duplicate name {name}")
        object.__setattr__(self, "items", tuple(replace(item, group=self.group) for item in self.items))

    def _refuse(self, name: str, fault: str) -> None:
        label = self.name if isinstance(self.package, str) else repr(self.package)
        raise InputError(f"study {label}: {name} {fault}")

    @property
    def name(self) -> str:
        """Name of the study in paths and, with hyphens, in the command."""
        return self.package.rpartition(".")[2]

    @property
    def group(self) -> str:
        """Name of the group that the items belong to: the paper's folder, or the study's own folder for a plugin."""
        parts = self.package.split(".")
        return parts[-1] if parts[-2:-1] == ["plugins"] else parts[-2]

    @property
    def module(self) -> str:
        """Name of the module that contains ``compute``."""
        return f"{self.package}.compute"

    @property
    def command(self) -> str:
        """Name of the study's command."""
        return self.name.replace("_", "-")

    @property
    def contract(self) -> list[Any]:
        """Properties of the table that this declaration determines and that the code hash does not cover."""
        columns = [f"{name}: {kind}" for name, kind in self.schema.columns.items()]
        return [self.schema.version, columns, self.inputs, self.reads.kind if self.reads else "", self.tensors]

    def unsupported_labels(self, labels: Mapping[str, str]) -> str:
        """Return why the study cannot use some options about label words: a sentence, or an empty string if it can.

        Args:
            labels: Keys under ``labels`` in the config with their values, without those with the value ``first``.
        """
        if self.reads is not PROMPTS:  # it has no label words
            return ""
        for key, value in labels.items():
            if value not in self.labels:
                allowed = [each for each in ("first", *self.labels) if each == "first" or each in LABEL_VALUES[key]]
                return (
                    f"study {self.name} does not support labels.{key}: {value}; set labels.{key} (--label-{key}) to "
                    f"{' or '.join(allowed)}"
                )
        return ""

    def item(self, name: str) -> Item:
        """Return the figure or table with the given name."""
        return next(item for item in self.items if item.name == name)

    def function(self, name: str) -> Callable:
        """Return a function of ``compute.py``. This imports the module and all its dependencies.

        Raises:
            InputError: The module has no such function.
        """
        function = getattr(import_module(self.module), name, None)
        if not callable(function):
            prefix = "inputs: " if name == self.inputs else ""
            raise InputError(f"study {self.name}: {prefix}{self.module} has no function {name}()")
        return function
