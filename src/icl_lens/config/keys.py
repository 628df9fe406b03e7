"""The config as typed models: the meaning, unit, default and allowed values of each key.

``icl-lens config`` generates ``config.yaml`` and the JSON schema from these models, so that they always agree.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, create_model, model_validator

from icl_lens.artifacts.hashes import STAGES
from icl_lens.errors import InputError
from icl_lens.hub import fetch
from icl_lens.network import max_memory
from icl_lens.network.number_formats import Dtype, Matmul
from icl_lens.organism.recipe import Recipe
from icl_lens.prompts.forms import Anchor, Score
from icl_lens.reader_organism.recipe import Recipe as ReaderRecipe
from icl_lens.section import Section, Seed
from icl_lens.studies import plugins as loaded_plugins
from icl_lens.studies import registry
from icl_lens.tasks.own import VARIANTS, OwnTask
from icl_lens.tasks.task import TASKS, Task


def _require_printable(path: str) -> str:
    if not path.isprintable():  # a zero byte is invalid in a path, and a line break would split it in commands and logs
        raise ValueError(f"a path must not contain line breaks or other control characters, got {path!r}")
    return path


Device = Literal["auto", "cpu", "cuda", "mps"]
Placement = Literal["device", "auto"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
HubId = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$")]
# Snakemake compares paths as strings, so folders are normalized: no leading "./" and no trailing "/".
Folder = Annotated[str, AfterValidator(_require_printable), AfterValidator(lambda folder: str(Path(folder)))]

# The default model, trained by this project and included in the package.
EMBEDDED_MODEL = "src/icl_lens/organism/checkpoint"
# The default model of the items with separate tasks, also trained by this project and included in the package.
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


def _memory_limits(value: Any) -> Any:
    """Check the sizes of max_memory, and convert the numbers of cards, which YAML reads as integers, to strings."""
    if isinstance(value, dict) and all(isinstance(size, str) for size in value.values()):
        value = {str(device): size for device, size in value.items()}
        try:
            max_memory.parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error
    return value


class Model(Section):
    """One language model."""

    name: Name = Field(description="Name of the model in paths and figures.")
    path: Annotated[str, AfterValidator(_require_printable)] | None = Field(
        default=None,
        min_length=1,
        description="Folder with a decoder-only checkpoint (config.json, *.safetensors) and its fast tokenizer.",
    )
    hub: HubId | None = Field(default=None, description="Instead of `path`: a model on the Hub (owner/name).")
    gguf: str | None = Field(
        default=None,
        description="Instead of `path`: a local GGUF file or, with `hub`, the name of a GGUF file in that repository. The file "
        "is converted once to float32 weights under `downloads`. The conversion needs an optional package: "
        "`.venv/bin/python -m pip install -c envs/gemma.txt gguf`.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="hub only: a commit, tag or branch (default: main). Pin a commit for reproducible results.",
    )
    dtype: Dtype | None = Field(default=None, description="Overrides `dtype` for this model.")
    matmul: Matmul | None = Field(default=None, description="Overrides `matmul` for this model.")
    placement: Placement | None = Field(default=None, description="Overrides `placement` for this model.")
    max_memory: Annotated[dict[str, str], BeforeValidator(_memory_limits)] | None = Field(
        default=None,
        description="`placement: auto` only: how much memory the layers may use on each device, for example "
        "`{0: 60GB, 1: 60GB, cpu: 200GB}`. A number is that of a card. The default of each device is 80 % of its free memory.",
    )
    step: int | None = Field(
        default=None,
        ge=0,
        description="For a training checkpoint: the number of training steps so far. cr_figure_3 shows accuracy over steps.",
    )
    bos: Literal["auto", True, False] = Field(
        default="auto",
        description="Whether to prepend the BOS token to each prompt: true, false, or auto (the tokenizer's default). Studies "
        "measure the loss with and without it, and figures have a warning if the loss in the form used is higher by more than "
        "0.5 nats per token.",
    )
    chat: Literal["turns", True, False] = Field(
        default=False,
        description="Format prompts with the tokenizer's chat template. true: the user's turn contains the demonstrations and "
        "the query, and the assistant's turn begins with the last piece of the task's template. turns: each demonstration is a "
        "turn of the user (its text with the task's template) and a turn of the assistant (its label word), and the query is "
        "the last turn of the user. `representation_models` cannot use turns.",
    )

    untrained: Seed | None = Field(
        default=None,
        description="Replace the weights by random weights, drawn with this seed by the initialization of the architecture. "
        "Results on this untrained copy do not come from training (null-untrained.yaml).",
    )

    adapter: Folder | None = Field(
        default=None,
        min_length=1,
        description="Folder of a LoRA adapter (adapter_config.json, adapter_model.safetensors) that was trained on this model. "
        "It is merged into the weights when the model is loaded. Adapters need an optional package: "
        "`.venv/bin/python -m pip install -c envs/quantized.txt peft`.",
    )

    @model_validator(mode="after")
    def _check_source(self) -> Model:
        if self.adapter is not None and self.untrained is not None:
            raise ValueError(
                f"models: {self.name}: adapter and untrained cannot be combined, because an untrained copy has no trained "
                "weights; remove one of them"
            )
        if self.gguf is not None and not self.gguf.endswith(".gguf"):
            raise ValueError(f"models: {self.name}: gguf must end in .gguf, got {self.gguf!r}")
        if self.path is not None and self.gguf is not None:
            raise ValueError(f"models: {self.name}: path and gguf cannot be combined; remove one of them")
        if (self.path is None) == (self.hub is None and self.gguf is None):
            raise ValueError(
                f"models: {self.name} needs exactly one source: path (a folder), hub (owner/name) or gguf (a GGUF file, alone "
                "or with hub)"
            )
        if self.hub is None and self.revision is not None:
            source = "path" if self.gguf is None else "gguf"
            raise ValueError(
                f"models: {self.name}: revision needs hub, but the model is local ({source}); remove revision, or set hub"
            )
        if self.hub is not None and self.gguf is not None and not is_repository_file(self.gguf):
            raise ValueError(
                f"models: {self.name}: gguf must be a file path inside the repository {self.hub}, got {self.gguf!r}"
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
            folder = fetch.local_gguf_folder(downloads, self.gguf) / fetch.CONVERTED
        elif self.hub is not None:
            folder = fetch.model_folder(downloads, self.hub, self.revision)
        else:
            return self.path or ""
        return str(folder)


class Labels(Section):
    """Which tokens of the label words are used."""

    score: Score = Field(
        default="first",
        description="How a class is predicted. first: by the logit of the first token of its label word, as in the paper. "
        "whole: by the sum of the log-probabilities of all its tokens, not divided by their number. With whole, label words "
        'may begin with the same token (" very positive", " very negative") or with an uninformative token (emojis, '
        "digits, scripts without spaces), but none may begin with all tokens of another.",
    )
    anchor: Anchor = Field(
        default="first",
        description="Which tokens of the label word of a demonstration are isolated, read and re-weighted: its first token "
        "(first, as in the paper), its last token (last), or all of them (all). Compression always keeps all tokens.",
    )

    @property
    def options(self) -> dict[str, str]:
        """The keys that differ from the default, with their values."""
        return {key: value for key, value in self.model_dump().items() if value != "first"}


class SplitFiles(Section):
    """Paths of the two splits of one task, relative to `root`."""

    train: str | None = Field(default=None, description="File of the training split, which provides the demonstrations.")
    test: str | None = Field(default=None, description="File of the split that provides the queries.")


class Data(Section):
    """Source of the texts and labels."""

    source: Literal["builtin", "files", "hub"] = Field(
        default="builtin",
        description="builtin: synthetic texts that resemble the four data sets, generated without a download. "
        "files: the original files of the data sets, in the folder `root`. hub: the data sets from the Hub.",
    )
    seed: Seed = Field(default=0, description="builtin only: seed of the generated texts.")
    root: str | None = Field(default=None, description="files only: folder with the data sets.")
    files: dict[str, SplitFiles] = Field(
        default_factory=dict,
        description="files only: file names under `root` that replace the defaults, e.g. "
        "{agnews: {train: agnews/train_subset.csv}}.",
    )

    revisions: dict[str, str] = Field(
        default_factory=dict,
        description="hub only: commits or branches that replace the defaults, e.g. {trec: COMMIT}.",
    )
    drop_test_duplicates: bool = Field(
        default=False,
        description="Remove test texts that are also training texts, for all sources and your own tasks. Texts are equal if "
        "they have the same characters, apart from whitespace at both ends. By default, they are kept, as in the paper, and a "
        "note in each figure gives their number.",
    )

    shuffle_labels: Seed | None = Field(
        default=None,
        description="Permute the labels among the texts of each split, with this seed, for all sources and your own tasks. "
        "Texts and labels then do not match (null-shuffled-labels.yaml).",
    )

    @model_validator(mode="after")
    def _check_source(self) -> Data:
        if self.source == "files" and not self.root:
            raise ValueError("data.root is missing; with data.source: files, set it to the folder with the files")
        if self.source != "files" and (self.root or self.files):
            raise ValueError(f"data.root and data.files need data.source: files, but data.source is {self.source!r}")
        if self.source != "hub" and self.revisions:
            raise ValueError(f"data.revisions needs data.source: hub, but data.source is {self.source!r}")
        return self


def _layer(layer: int | str) -> int | str:
    if layer not in ("shallow", "deep") and not (isinstance(layer, int) and layer >= 0):
        raise ValueError(f"a layer must be a number (from 0), shallow or deep, got {layer!r}")
    return layer


Layer = Annotated[int | str, AfterValidator(_layer)]


class ItemChoice(Section):
    """Models, tasks, prompt and layers of one figure or table."""

    models: list[Name] | None = Field(default=None, min_length=1, description="Names of configured models.")
    tasks: list[str] | None = Field(default=None, min_length=1, description="Names of configured tasks.")
    prompt: Annotated[int | None, BeforeValidator(_number)] = Field(
        default=None,
        ge=0,
        description="figure_1 and figure_2: prompt_id of the prompt to show. Default: the first prompt that the study "
        "`flow` saves.",
    )
    layers: Annotated[list[Layer] | None, BeforeValidator(_numbers)] = Field(
        default=None,
        min_length=1,
        description="figure_1 and figure_2: layers to show side by side, numbered from 0. Default: shallow (at one fifth of "
        "the depth) and deep (at four fifths).",
    )


class Config(Section):
    """The complete config."""

    results: Folder = Field(
        default="results",
        min_length=1,
        description="Folder for all outputs. Use a different folder for each config, so that one does not overwrite another.",
    )
    models: list[Model] = Field(
        default_factory=lambda: [Model(name="organism", path=EMBEDDED_MODEL)],
        min_length=1,
        description="The language models to study. Each has a `name` (used in paths and figures) and one source: `path` (a "
        "folder with a decoder-only checkpoint in safetensors and its tokenizer), `hub` (owner/name, with its `revision`) or "
        "`gguf` (a GGUF file, alone or with `hub`). An optional `dtype` overrides the `dtype` below. The default is the small "
        "model that was trained for this project and is included in it.",
    )
    representation_models: list[Model] = Field(
        default_factory=lambda: [Model(name="reader", path=READER_MODEL)],
        min_length=1,
        description="The language models of the group `representation_change`, with the same keys as `models`. The group has "
        "separate models because it has separate tasks. The default is a second small model that was trained for this "
        "project, only on these tasks, and is included in it.",
    )
    tasks: list[Name] = Field(
        default_factory=lambda: list(TASKS),
        min_length=1,
        description="The classification tasks: the paper's four, or your own. A task that you leave out is left out of each "
        "figure.",
    )
    own_tasks: dict[Name, OwnTask] = Field(
        default_factory=dict,
        description="Your own tasks: template, label words, and files or a Hub data set. List them in `tasks`, too. "
        "docs/own-task.md has an example.",
    )
    data: Data = Field(
        default_factory=Data,
        description="Source of the texts. `source: builtin` generates synthetic texts that resemble the four data sets, from "
        "`seed`. `source: files` reads the original files from the folder `root` (config/README.md lists their names). "
        "`source: hub` downloads the data sets from the Hub.",
    )
    labels: Labels = Field(
        default_factory=Labels,
        description="Which tokens of a label word of several tokens are used (docs/own-task.md). `score` is how a class is "
        "predicted: by the first token of its label word (first, as in the paper) or by the whole word (whole). `anchor` is "
        "which tokens are isolated, read and re-weighted: first, last or all. Items of studies that do not support a value are "
        "left out.",
    )
    downloads: Folder = Field(
        default="downloads",
        min_length=1,
        description="Folder for downloads from the Hub, shared by all configs. Only these downloads use the network.",
    )
    seeds: Annotated[list[Seed], BeforeValidator(_numbers)] = Field(
        default_factory=lambda: list(range(42, 52)),
        min_length=1,
        description="One run per seed. A seed determines which test texts and demonstrations are sampled. The paper uses 42 to "
        "46. For the same number of prompts, more seeds give narrower confidence intervals (docs/statistics.md).",
    )
    queries: int = Field(
        default=50,
        ge=1,
        description="Maximum number of test texts per task and seed. A smaller test set is used completely. The paper uses "
        "1000.",
    )
    device: Device = Field(
        default="auto",
        description="Device of the models: auto (cuda if available, otherwise cpu), cpu, cuda or mps. auto never selects mps "
        "(Apple): it is untested in this project, and its attention kernels in PyTorch have returned wrong results.",
    )
    placement: Placement = Field(
        default="device",
        description="device: each model is on one device. auto: the layers of a model are distributed over all cards, the main "
        "memory and the disk, for models that are larger than a card (docs/scale.md). It affects results only by rounding.",
    )
    dtype: Dtype = Field(default="float32", description="dtype of the models: float32 (as in the paper), float16 or bfloat16.")
    matmul: Matmul = Field(
        default="exact",
        description="How products of float32 matrices are computed: exact (in float32) or fast (TF32 on CUDA, bfloat16 on "
        "CPUs with AMX). docs/precision.md reports how much the results change.",
    )
    batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens per batch, padding included. It affects speed and memory, and results only by rounding. On a CPU, "
        "batches are also limited to 1 GiB of memory in addition to the weights, as estimated from the model's width, layers, "
        "feed-forward size, heads and vocabulary. A batch always has at least one prompt.",
    )
    shards: int = Field(
        default=1,
        ge=1,
        description="Number of jobs that a study of one model, task and prompt set is split into, each with a part of the "
        "prompts. It does not affect the results. Some studies are always one job, see docs/scale.md.",
    )
    studies: Section = Field(  # the keys of each study: see config_type
        default_factory=Section,
        description="Settings of the studies. config/reference.md explains each key. For example, `isolation` sets which "
        "tokens are isolated from the preceding text, in how many layers and how, and the number of draws of its random "
        "control. `compression` sets how positions continue and the number of draws, `latency` the number of prompts and "
        "repeats, and `reweighting` the training of the weights.",
    )
    organism: Annotated[Recipe, BeforeValidator(_numbers)] = Field(
        default_factory=Recipe,
        description="How `snakemake organism` trains a model that learns in context, on the texts of the tasks above. `all` "
        "never trains. The default reproduces the embedded model. config/README.md explains the keys.",
    )
    reader_organism: Annotated[ReaderRecipe, BeforeValidator(_numbers)] = Field(
        default_factory=ReaderRecipe,
        description="How `snakemake reader_organism` trains the second model. `all` never trains. The default reproduces the "
        "included model.",
    )
    groups: list[str] = Field(  # config_type restricts it to the known papers
        default_factory=list,
        min_length=1,
        description="The papers whose figures and tables `all` makes and the report shows. You can still request figures and "
        "groups of other papers as targets.",
    )
    plugins: list[str] = Field(
        default_factory=list,
        description="Folders of your own studies, each with a study.py (docs/extending.md). Their settings are keys under "
        "`studies`, their figures and tables are targets, and `all` makes them.",
    )
    items: dict[str, ItemChoice] = Field(
        default_factory=dict,
        description="Models and tasks of a figure or table, if they differ from the default (all models, and the tasks that "
        "the paper shows), e.g. {figure_3: {models: [organism], tasks: [sst2]}}.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        for key in ("models", "representation_models"):
            _require_unique(key, [model.name for model in getattr(self, key)])
        names = {model.name: model for model in self.models}
        representation_names = {model.name: model for model in self.representation_models}
        for model in self.representation_models:
            if model != self.model(model.name):
                raise ValueError(
                    f"representation_models: {model.name!r} is already the name of a different model in models; choose another"
                )
            if model.chat == "turns":
                raise ValueError(
                    f"representation_models: {model.name}: chat must be true or false, because the examples of "
                    "representation_change have no label words that could be turns, got 'turns'"
                )
        for model in self.all_models:
            placement = model.placement or self.placement
            if model.max_memory is not None and placement != "auto":
                raise ValueError(
                    f"models: {model.name}: max_memory needs placement: auto, but placement is {placement}; remove max_memory, "
                    "or set placement"
                )
            if placement == "auto" and self.device == "mps":
                raise ValueError(f"models: {model.name}: placement: auto does not support device: mps; set placement: device")
        if Path(self.results).resolve() == Path(self.downloads).resolve():
            raise ValueError(f"downloads: {self.downloads!r} is also the folder of the results; set another folder")
        if self.shards > len(self.seeds) * self.queries:
            raise ValueError(
                f"shards is {self.shards}, but there are at most {len(self.seeds) * self.queries} prompts per task (seeds "
                "times queries); set it to at most this number"
            )
        _require_unique("tasks", self.tasks)
        _require_unique("seeds", self.seeds)
        _require_unique("groups", self.groups)
        for key, named in (("models", names), ("representation_models", representation_names), ("own_tasks", self.own_tasks)):
            for name in named:
                if name in STAGES:
                    raise ValueError(f"{key}: the name {name!r} is reserved for a folder of the results; choose another")
        for task, definition in self.own_tasks.items():
            if task in TASKS:
                raise ValueError(f"own_tasks.{task}: {task} is a task of the paper; choose another name")
            if definition != VARIANTS.get(task, definition):
                raise ValueError(f"own_tasks.{task}: {task} is a built-in task; choose another name")
            try:
                definition.task(task, TASKS)
            except ValueError as error:
                raise ValueError(f"own_tasks.{task}: {error}") from None
        for task in self.tasks:
            _require_known("tasks", task, [*TASKS, *self.own_tasks])
        for key, named in (("data.files", self.data.files), ("data.revisions", self.data.revisions)):
            for task in named:
                _require_known(key, task, TASKS)
        items = registry.items()
        for item, choice in self.items.items():
            _require_known("items", item, items)
            for key, chosen, configured in (
                ("models", choice.models, representation_names if items[item].own_tasks else names),
                ("tasks", choice.tasks, items[item].tasks if items[item].own_tasks else [*self.tasks, *self._variants(item)]),
            ):
                _require_unique(f"items.{item}.{key}", chosen or [])
                for name in chosen or []:
                    _require_known(f"items.{item}.{key}", name, configured)
            if choice.models and not items[item].studies:
                raise ValueError(f"items.{item}.models: {item} uses no model; remove this key")
            for key, value in (("prompt", choice.prompt), ("layers", choice.layers)):
                if value is not None and not items[item].one_prompt:
                    raise ValueError(f"items.{item}.{key}: {item} does not show a single prompt; remove this key")
        return self

    def model(self, name: str) -> Model:
        """Return the model with the given name."""
        return self._models_by_name[name]

    @property
    def all_models(self) -> list[Model]:
        """The models of all items, without duplicates."""
        return list(self._models_by_name.values())

    @cached_property
    def _models_by_name(self) -> dict[str, Model]:
        """The models of all items by name. A run asks for the model of each of its jobs."""
        found: dict[str, Model] = {}
        for model in (*self.models, *self.representation_models):
            found.setdefault(model.name, model)
        return found

    def model_copy(self, **options: Any) -> Config:
        """Return a copy, see pydantic's method. It finds its own models by name."""
        copied = super().model_copy(**options)
        copied.__dict__.pop("_models_by_name", None)
        return copied

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

    def placement_of(self, name: str) -> tuple[Placement, dict[str, str] | None]:
        """Return the placement of a model, and its memory limits if it has any."""
        model = self.model(name)
        return model.placement or self.placement, model.max_memory

    def precision(self, name: str) -> tuple[Dtype, Matmul]:
        """Return the number format and the matrix multiplication mode of a model."""
        model = self.model(name)
        return model.dtype or self.dtype, model.matmul or self.matmul

    def comparable_across_precisions(self, names: list[str]) -> list[str]:
        """Return the models that can be compared across precisions.

        A model is included if the given models contain it both in float32 with exact products and in another precision, with
        all other keys equal that affect results.
        """
        precisions: dict[str, set[tuple[Dtype, Matmul]]] = {}
        run = {
            name: self.model(name).model_dump_json(exclude={"name", "dtype", "matmul", "placement", "max_memory"})
            for name in names
        }
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

    def text_source(self, task: str) -> str:
        """Return the name of the task that provides the texts: the task named by ``like``, or the task itself."""
        task_definition = self.definition(task)
        return (task_definition and task_definition.like) or task

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
        - An item that compares number formats shows the chosen models that :meth:`comparable_across_precisions` keeps.
        - An item about particular Hub models shows these models.
        - An item about training shows the models with a step.
        - An item with separate tasks shows these tasks, with the models in ``representation_models``.

        Both lists may be empty.
        """
        choice = self.items.get(item, ItemChoice())
        shown = registry.items()[item]
        if shown.own_tasks:
            names = [model.name for model in self.representation_models]
            return choice.models or names, choice.tasks or list(shown.tasks)
        listed = shown.tasks or tuple(self.tasks)
        variants = self._variants(item)
        about_variants = any(task in VARIANTS for task in shown.tasks)
        item_tasks = {task for other in registry.items().values() for task in other.tasks}
        user_tasks = [task for task in self.tasks if task in self.own_tasks and task not in {*listed, *item_tasks}]
        hubs = shown.hubs
        # Only items about training show models with a step, unless all configured models have one.
        finished = [model for model in self.models if model.step is None] or self.models
        available = self.models if shown.over_training else finished
        models = choice.models or [model.name for model in available if not hubs or model.hub in hubs]
        if shown.compares_precisions:
            models = self.comparable_across_precisions(models)
        if shown.over_training:
            models = [name for name in models if self.model(name).step is not None]
        paper_tasks = [task for task in listed if task in self.tasks or task in variants]
        if shown.stand_ins:
            replacements = [task for task in shown.stand_ins if task in self.tasks or task in variants]
            return models, choice.tasks or paper_tasks or replacements[:1]
        return models, choice.tasks or (paper_tasks if about_variants else [*paper_tasks, *user_tasks])


def config_type() -> type[Config]:
    """Return the type of the config with the settings of all known studies, including the studies of plugins."""
    return _config_type(tuple(loaded_plugins.FOLDERS.items()))


@cache
def _config_type(plugins: tuple[tuple[str, Path], ...]) -> type[Config]:
    papers = tuple(registry.papers())
    studies = create_model(
        "Studies",
        __base__=Section,
        __doc__="Settings of the studies. A study without settings has no key.",
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


def _require_unique(key: str, values: list[Any]) -> None:
    duplicates = sorted(value for value, count in Counter(values).items() if count > 1)
    if duplicates:
        raise ValueError(f"{key}: duplicate value {duplicates[0]!r}; values must be unique")


def _require_known(key: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise ValueError(f"{key}: {value!r} is unknown; {suggest(value, list(valid))}")


def suggest(word: str, valid: list[str]) -> str:
    same = [name for name in valid if name.lower() == word.lower()]  # for example SST2
    matches = same or difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    known = ", ".join(valid)
    return f"did you mean {matches[0]!r}? (known: {known})" if matches else f"known: {known}"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section type inside an annotation such as ``list[Model]`` or ``dict[str, SplitFiles]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := section_of(inner))), None)
