"""The config as typed models: the meaning, unit, default and allowed values of each key.

``icl-lens config`` generates ``config.yaml`` and the JSON schema from these models, so that they always agree.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, create_model, model_validator

from icl_lens.artifacts.hashes import STAGES
from icl_lens.hub import fetch
from icl_lens.organism.recipe import Recipe
from icl_lens.reader_organism.recipe import Recipe as ReaderRecipe
from icl_lens.section import Section, Seed
from icl_lens.studies import plugins as plugins_of_this_process
from icl_lens.studies import registry
from icl_lens.tasks.own import VARIANTS, OwnTask
from icl_lens.tasks.task import TASKS, Task

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Matmul = Literal["exact", "fast"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
HubId = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$")]
# Snakemake compares paths as strings, so folders are normalized: no leading "./" and no trailing "/".
Folder = Annotated[str, AfterValidator(lambda folder: str(Path(folder)))]

# The default model, trained by this project and included in the package.
EMBEDDED_MODEL = "src/icl_lens/organism/checkpoint"
# The default model of the items with tasks of their own, also trained by this project and included in the package.
READER_MODEL = "src/icl_lens/reader_organism/checkpoint"


def _numbers(value: Any) -> Any:
    """Convert numeric strings inside a list or mapping to numbers; return any other value unchanged.

    Snakemake passes the values inside a list or mapping on the command line (--config seeds=[1,2]) as strings.
    """
    if isinstance(value, list):
        return [_numbers(_number(entry)) for entry in value]
    if isinstance(value, dict):
        return {key: _numbers(_number(entry)) for key, entry in value.items()}
    return value


def _number(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(entry)
    return entry


def is_repository_file(name: str) -> bool:
    """Return True if the name is valid for a file in a Hub repository: a relative path inside the repository."""
    return not re.search(r"[\\:\0-\x1f]", name) and all(part and not part.startswith(".") for part in name.split("/"))


class Model(Section):
    """One language model."""

    name: Name = Field(description="The name in paths and figures.")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="A folder with a decoder-only checkpoint (config.json, *.safetensors) and its fast tokenizer.",
    )
    hub: HubId | None = Field(default=None, description="Instead of `path`: a model on the hub, owner/name.")
    gguf: str | None = Field(
        default=None,
        description="Instead of `path`: a GGUF file; with `hub`, the name of a GGUF file of that repository. It is converted "
        "once to float32 weights under `downloads`, which needs optional packages: "
        "`.venv/bin/python -m pip install -c envs/gemma.txt gguf accelerate`.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="hub only: a commit, tag or branch (default: main). Name a commit if others are to get the same numbers.",
    )
    dtype: Dtype | None = Field(default=None, description="Overrides `dtype` for this model.")
    matmul: Matmul | None = Field(default=None, description="Overrides `matmul` for this model.")
    step: int | None = Field(
        default=None,
        ge=0,
        description="Of a checkpoint saved during training: after how many steps. cr_figure_3 draws accuracy over those.",
    )
    bos: Literal["auto"] | bool = Field(
        default="auto",
        description="Whether prompts begin with the beginning-of-sequence token; auto: where the tokenizer puts one by itself.",
    )
    chat: bool = Field(
        default=False,
        description="Write prompts as a chat, by the tokenizer's own template: the user's turn holds demonstrations and query, "
        "the answer begins with the last piece of the task's template.",
    )

    @model_validator(mode="after")
    def _lies_somewhere(self) -> Model:
        if self.gguf is not None and not self.gguf.endswith(".gguf"):
            raise ValueError(f"models: {self.name}: gguf is {self.gguf!r}; the name of a GGUF file ends in .gguf")
        if self.path is not None and self.gguf is not None:
            raise ValueError(f"models: {self.name} has a path and a gguf; leave one of them out")
        if (self.path is None) == (self.hub is None and self.gguf is None):
            raise ValueError(
                f"models: {self.name} needs one of path (a folder), hub (owner/name) and gguf (a GGUF file, alone or with hub)"
            )
        if self.hub is None and self.revision is not None:
            what = "path" if self.gguf is None else "gguf of this machine"
            raise ValueError(f"models: {self.name} has a {what}, so its revision says nothing; leave it out, or name a hub")
        if self.hub is not None and self.gguf is not None and not is_repository_file(self.gguf):
            raise ValueError(
                f"models: {self.name}: {self.gguf!r} cannot be a file of {self.hub}; give its path inside the repository"
            )
        return self

    def folder(self, downloads: str) -> str:
        """Return the folder that studies read: the user's own folder, or the folder of the downloaded or converted model.

        Raises:
            InputError: The name of the repository or revision is invalid.
        """
        if self.gguf is not None and self.hub is not None:
            folder = fetch.gguf_folder(downloads, self.hub, self.revision, self.gguf) / fetch.CONVERTED
        elif self.gguf is not None:
            folder = fetch.own_gguf_folder(downloads, self.gguf) / fetch.CONVERTED
        elif self.hub is not None:
            folder = fetch.model_folder(downloads, self.hub, self.revision)
        else:
            return self.path or ""
        return str(folder)


class SplitFiles(Section):
    """Paths of the two splits of one task, relative to `root`."""

    train: str | None = Field(default=None, description="The training split: demonstrations are drawn from it.")
    test: str | None = Field(default=None, description="The split whose texts are the queries.")


class Data(Section):
    """Source of the texts and labels."""

    source: Literal["builtin", "files", "hub"] = Field(
        default="builtin",
        description="builtin: look-alikes of the four data sets, generated here, no download. "
        "files: the data sets' original files in the folder `root`. hub: the data sets as the hub keeps them.",
    )
    seed: Seed = Field(default=0, description="builtin only: the seed of the generated texts.")
    root: str | None = Field(default=None, description="files only: the folder that holds the data sets.")
    files: dict[str, SplitFiles] = Field(
        default_factory=dict,
        description="files only: other file names under `root`, e.g. {agnews: {train: agnews/train_subset.csv}}.",
    )

    revisions: dict[str, str] = Field(
        default_factory=dict,
        description="hub only: other commits or branches, e.g. {trec: <commit>}.",
    )

    @model_validator(mode="after")
    def _keys_go_with_their_source(self) -> Data:
        if self.source == "files" and not self.root:
            raise ValueError("data.source is 'files', so data.root must name the folder that holds the files")
        if self.source != "files" and (self.root or self.files):
            raise ValueError(f"data.root and data.files need data.source: files, but data.source is {self.source!r}")
        if self.source != "hub" and self.revisions:
            raise ValueError(f"data.revisions needs data.source: hub, but data.source is {self.source!r}")
        return self


def _layer(layer: int | str) -> int | str:
    if layer not in ("shallow", "deep") and not (isinstance(layer, int) and layer >= 0):
        raise ValueError(f"{layer!r} is no layer; it must be a number from 0 on, shallow or deep")
    return layer


Layer = Annotated[int | str, AfterValidator(_layer)]


class ItemChoice(Section):
    """Models, tasks, prompt and layers that one figure or table shows."""

    models: list[Name] | None = Field(default=None, min_length=1, description="Names of configured models.")
    tasks: list[str] | None = Field(default=None, min_length=1, description="Names of configured tasks.")
    prompt: Annotated[int | None, BeforeValidator(_number)] = Field(
        default=None,
        ge=0,
        description="figure_1 and figure_2: the prompt_id of the prompt that is drawn. Empty: the first that the study "
        "`flow` keeps.",
    )
    layers: Annotated[list[Layer] | None, BeforeValidator(_numbers)] = Field(
        default=None,
        min_length=1,
        description="figure_1 and figure_2: the layers that are drawn side by side, counted from 0. Empty: shallow, a fifth of "
        "the depth, and deep, four fifths.",
    )


class Config(Section):
    """The complete config."""

    results: Folder = Field(
        default="results", min_length=1, description="The folder for everything that is made. Overlays use their own."
    )
    models: list[Model] = Field(
        default_factory=lambda: [Model(name="organism", path=EMBEDDED_MODEL)],
        min_length=1,
        description="The language models to study; each has a `name` (in paths and figures), a `path` (a folder with a "
        "decoder-only checkpoint in safetensors and its tokenizer), a `hub` (owner/name, with its `revision`) or a `gguf` (a "
        "GGUF file, alone or with `hub`) and, where it differs from `dtype` below, a `dtype`. The default is the small "
        "model that this project trained and ships.",
    )
    representation_models: list[Model] = Field(
        default_factory=lambda: [Model(name="reader", path=READER_MODEL)],
        min_length=1,
        description="The language models that the group `representation_change` studies, written like those above: its tasks "
        "are its own. The default is a second small model that this project trained and ships; it knows these tasks alone.",
    )
    tasks: list[Name] = Field(
        default_factory=lambda: list(TASKS),
        min_length=1,
        description="The classification tasks, the paper's four or your own. Leave one out and every figure leaves it out.",
    )
    own_tasks: dict[Name, OwnTask] = Field(
        default_factory=dict,
        description="Tasks of your own: template, label words, and files or a data set on the hub. Name them in `tasks`, too. "
        "README.md has an example.",
    )
    data: Data = Field(
        default_factory=Data,
        description="Where texts come from. `source: builtin` generates look-alikes of the four data sets from `seed`; "
        "`source: files` reads the original files from the folder `root` (see config/README.md for their names), `source: hub` "
        "fetches the data sets.",
    )
    downloads: Folder = Field(
        default="downloads",
        min_length=1,
        description="The folder for what is fetched from the hub, shared by all configs. Nothing else touches the network.",
    )
    seeds: Annotated[list[Seed], BeforeValidator(_numbers)] = Field(
        default_factory=lambda: [42, 43, 44, 45, 46],
        min_length=1,
        description="One run per seed: a seed draws the test texts and the demonstrations. The paper uses 42 to 46.",
    )
    queries: int = Field(
        default=100,
        ge=1,
        description="Test texts per task and seed, at most (a smaller test set is used whole). The paper uses 1000.",
    )
    device: Device = Field(
        default="auto",
        description="Where the model runs: auto (cuda where it is available, otherwise cpu), cpu, cuda or mps. auto never "
        "picks mps (Apple), which is untested here and whose attention kernels have returned wrong results in PyTorch.",
    )
    dtype: Dtype = Field(
        default="float32", description="The model's number format: float32 (as in the paper), float16 or bfloat16."
    )
    matmul: Matmul = Field(
        default="exact",
        description="How products of float32 matrices are computed: exact (in float32), or fast: TF32 on CUDA, bfloat16 on "
        "CPUs that have such products in hardware (AMX). docs/precision.md says how far results move.",
    )
    batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens per batch, padding included. Changes speed and memory, never a result beyond rounding. On a CPU "
        "a batch is cut further, to what takes at most 1 GiB beside the weights, counted from the model's width, layers, "
        "feed-forward size, heads and vocabulary (a single prompt is never cut).",
    )
    studies: Section = Field(  # the keys of each study: see config_type
        default_factory=Section,
        description="What a study does, where there is something to choose: which tokens `isolation` cuts off from the text "
        "before them, in how many layers and how, and how many draws its random control takes; how `compression` "
        "continues positions and how often it draws; how many prompts `latency` times, how often; how `reweighting` trains.",
    )
    organism: Annotated[Recipe, BeforeValidator(_numbers)] = Field(
        default_factory=Recipe,
        description="How `snakemake organism` trains a model that learns in context, from the texts of the tasks above. `all` "
        "never trains. The default makes the embedded model; config/README.md explains each key.",
    )
    reader_organism: Annotated[ReaderRecipe, BeforeValidator(_numbers)] = Field(
        default_factory=ReaderRecipe,
        description="How `snakemake reader_organism` trains the second model. `all` never trains. The default makes the one "
        "that is shipped.",
    )
    groups: list[str] = Field(  # one of the papers: see config_type
        default_factory=list,
        min_length=1,
        description="The papers whose figures and tables `all` makes and the report shows. The target of another paper's "
        "figure, or of its group, makes it all the same.",
    )
    plugins: list[str] = Field(
        default_factory=list,
        description="Folders of studies of your own, each with a study.py (docs/extending.md). Their settings are keys under "
        "`studies`, their figures and tables are targets, and `all` makes them.",
    )
    items: dict[str, ItemChoice] = Field(
        default_factory=dict,
        description="What a figure or table shows, where that differs from the paper's choice of tasks and every model, "
        "e.g. {figure_3: {models: [organism], tasks: [sst2]}}.",
    )

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        names = [model.name for model in self.models]
        _unique("models", names)
        others = [model.name for model in self.representation_models]
        _unique("representation_models", others)
        for model in self.representation_models:
            if model.name in names and model != self.model(model.name):
                raise ValueError(
                    f"representation_models: {model.name} is another model under models; give it a name of its own"
                )
        _unique("tasks", self.tasks)
        _unique("seeds", self.seeds)
        _unique("groups", self.groups)
        for key, named in (("models", names), ("representation_models", others), ("own_tasks", self.own_tasks)):
            for name in named:
                if name in STAGES:
                    raise ValueError(f"{key}: the name {name!r} is a folder of the results tree; choose another")
        for task, own in self.own_tasks.items():
            if task in TASKS:
                raise ValueError(f"own_tasks.{task}: {task} is a task of the paper; choose another name")
            if own != VARIANTS.get(task, own):
                raise ValueError(f"own_tasks.{task}: {task} is a task that icl-lens brings itself; choose another name")
            try:
                own.task(task, TASKS)
            except ValueError as error:
                raise ValueError(f"own_tasks.{task}: {error}") from None
        for task in self.tasks:
            _known("tasks", task, [*TASKS, *self.own_tasks])
        for key, named in (("data.files", self.data.files), ("data.revisions", self.data.revisions)):
            for task in named:
                _known(key, task, TASKS)
        items = registry.items()
        for item, choice in self.items.items():
            _known("items", item, items)
            for key, chosen, configured in (
                ("models", choice.models, others if items[item].own_tasks else names),
                ("tasks", choice.tasks, items[item].tasks if items[item].own_tasks else [*self.tasks, *self._variants(item)]),
            ):
                _unique(f"items.{item}.{key}", chosen or [])
                for name in chosen or []:
                    _known(f"items.{item}.{key}", name, configured)
            if choice.models and not items[item].studies:
                raise ValueError(f"items.{item}.models: {item} shows no model")
            for key, value in (("prompt", choice.prompt), ("layers", choice.layers)):
                if value is not None and not items[item].one_prompt:
                    raise ValueError(f"items.{item}.{key}: {item} does not draw a single prompt")
        return self

    def model(self, name: str) -> Model:
        """Return the model with the given name."""
        return next(model for model in self.every_model if model.name == name)

    @property
    def every_model(self) -> list[Model]:
        """The models of all items, without duplicates."""
        names = [model.name for model in self.models]
        return [*self.models, *(model for model in self.representation_models if model.name not in names)]

    def with_checkpoints(self) -> Config:
        """Return the config with the training checkpoints of `snakemake organism` as additional models.

        The config is unchanged if the training has not finished or if the config already lists models with a step. The
        additional models are named organism-STEP and have a step, so that only items about training show them. Their paths are
        absolute, so that Snakemake treats them as the user's files and never trains a model in order to study it.
        """
        training = Path(self.results).absolute() / "training"
        if not (training / "model").is_dir() or any(model.step is not None for model in self.models):
            return self
        folders = sorted((training / "checkpoints").glob("step-[0-9]*"))
        saved = [
            Model(name=f"organism-{folder.name}", path=str(folder), step=int(folder.name.rpartition("-")[2]))
            for folder in folders
        ]
        return self.model_copy(update={"models": [*self.models, *saved]})

    def precision(self, name: str) -> tuple[Dtype, Matmul]:
        """Return the number format and the matrix multiplication mode of a model."""
        model = self.model(name)
        return model.dtype or self.dtype, model.matmul or self.matmul

    def in_other_precisions(self, names: list[str]) -> list[str]:
        """Return the models that can be compared across precisions.

        A model is included if the given models contain it both in float32 with exact products and in another precision, with
        all other keys equal.
        """
        precisions: dict[str, set[tuple[Dtype, Matmul]]] = {}
        run = {name: self.model(name).model_dump_json(exclude={"name", "dtype", "matmul"}) for name in names}
        for name in names:
            precisions.setdefault(run[name], set()).add(self.precision(name))
        return [name for name in names if ("float32", "exact") in precisions[run[name]] and len(precisions[run[name]]) > 1]

    def task(self, name: str) -> Task:
        """Return the task with the given name: one of the paper's tasks, a variant of one, or the user's own."""
        definition = self.definition(name)
        return definition.task(name, TASKS) if definition else TASKS[name]

    def definition(self, task: str) -> OwnTask | None:
        """Return the definition of the user's own task or of a variant; None for the paper's four tasks."""
        return self.own_tasks.get(task) or VARIANTS.get(task)

    def texts_of(self, task: str) -> str:
        """Return the name of the task that provides the texts: the task named by ``like``, or the task itself."""
        own = self.definition(task)
        return (own and own.like) or task

    def settings(self, study: str, task: str) -> Section | None:
        """Return the settings of a study for one task; None if the study has no settings.

        The prompts that the items of this task name are added to ``also``.
        """
        keys = registry.study(study).settings
        if keys is None:
            return None
        settings = getattr(self.studies, keys.name)
        if "also" not in keys.section.model_fields:
            return settings
        named = {
            choice.prompt
            for item, choice in self.items.items()
            if choice.prompt is not None and study in registry.items()[item].studies and task in self.shown(item)[1]
        }
        return settings.model_copy(update={"also": sorted({*settings.also, *named})})

    def _variants(self, item: str) -> list[str]:
        """Return the variants of configured tasks that an item shows."""
        shown = registry.items()[item]
        named = (*shown.tasks, *shown.stand_ins)
        return [task for task in named if task in VARIANTS and VARIANTS[task].like in self.tasks]

    def shown(self, item: str) -> tuple[list[str], list[str]]:
        """Return the names of the models and of the tasks that an item shows.

        By default, an item shows the configured tasks among those that the paper shows in it, and the user's own tasks. The
        exceptions are:

        - An item about a variant (SST-2 with labels A and B) shows only this variant.
        - If an item is about one of the user's own tasks, only this item and the items about all tasks show the task.
        - An item that compares number formats shows the chosen models that :meth:`in_other_precisions` keeps.
        - An item about particular Hub models shows these models.
        - An item about training shows the models with a step.
        - An item with tasks of its own shows these tasks, with the models in ``representation_models``.

        Both lists may be empty.
        """
        choice = self.items.get(item, ItemChoice())
        shown = registry.items()[item]
        if shown.own_tasks:
            names = [model.name for model in self.representation_models]
            return choice.models or names, choice.tasks or list(shown.tasks)
        paper = shown.tasks or tuple(self.tasks)
        variants = self._variants(item)
        about_variants = any(task in VARIANTS for task in shown.tasks)
        elsewhere = {task for other in registry.items().values() for task in other.tasks}
        own = [task for task in self.tasks if task in self.own_tasks and task not in {*paper, *elsewhere}]
        hubs = shown.hubs
        # Only items about training show models with a step, unless all configured models have one.
        ended = [model for model in self.models if model.step is None] or self.models
        offered = self.models if shown.over_training else ended
        models = choice.models or [model.name for model in offered if not hubs or model.hub in hubs]
        if shown.compares_precisions:
            models = self.in_other_precisions(models)
        if shown.over_training:
            models = [name for name in models if self.model(name).step is not None]
        theirs = [task for task in paper if task in self.tasks or task in variants]
        if shown.stand_ins:
            instead = [task for task in shown.stand_ins if task in self.tasks or task in variants]
            return models, choice.tasks or theirs or instead[:1]
        return models, choice.tasks or (theirs if about_variants else [*theirs, *own])


def config_type() -> type[Config]:
    """Return the type of the config with the settings of all known studies, including the studies of plugins."""
    return _config_type(tuple(plugins_of_this_process.FOLDERS.items()))


@cache
def _config_type(plugins: tuple[tuple[str, Path], ...]) -> type[Config]:
    papers = tuple(registry.papers())
    studies = create_model(
        "Studies",
        __base__=Section,
        __doc__="How studies are made; those that leave nothing to choose have no key here.",
        **{
            name: (keys.section, Field(default_factory=keys.section, description=keys.description))
            for name, keys in registry.settings().items()
        },
    )
    fields = Config.model_fields
    return create_model(
        "Config",
        __base__=Config,
        __doc__=Config.__doc__,
        studies=(
            Annotated[studies, BeforeValidator(_numbers)],
            Field(default_factory=studies, description=fields["studies"].description),
        ),
        groups=(
            list[Literal[papers]],
            Field(default_factory=lambda: list(papers), min_length=1, description=fields["groups"].description),
        ),
    )


def _unique(key: str, values: list[Any]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{key}: {twice[0]!r} stands there twice")


def _known(key: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise ValueError(f"{key}: {value!r} is unknown; {suggest(value, list(valid))}")


def suggest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    known = ", ".join(valid)
    return f"did you mean {close[0]!r}? (known: {known})" if close else f"known: {known}"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section type inside an annotation such as ``list[Model]`` or ``dict[str, SplitFiles]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := section_of(inner))), None)
