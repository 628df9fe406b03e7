"""The config as typed models: every key's meaning, unit, default and allowed values, in this one place.

``config.yaml`` and the JSON schema are printed from here (``icl-lens config``), so they cannot drift apart.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticUndefined

from icl_lens import controls_plan, fetch, flow_plan, isolated_words_plan, kernel_regression_plan
from icl_lens.components_plan import Settings as Components
from icl_lens.compression_plan import Settings as Compression
from icl_lens.diagnosis_plan import Settings as Diagnosis
from icl_lens.errors import InputError
from icl_lens.hidden_markov_plan import Settings as HiddenMarkov
from icl_lens.isolation_plan import Settings as Isolation
from icl_lens.items import ITEMS, PAPERS
from icl_lens.kernel_regression_plan import Settings as KernelRegression
from icl_lens.label_probes_plan import Settings as LabelProbes
from icl_lens.latency_plan import Settings as Latency
from icl_lens.organism.recipe import Recipe
from icl_lens.own_tasks import VARIANTS, OwnTask
from icl_lens.provenance import STAGES
from icl_lens.reader_organism.recipe import Recipe as ReaderRecipe
from icl_lens.representation_plan import Settings as RepresentationChange
from icl_lens.reweighting_plan import Settings as Reweighting
from icl_lens.rewriting_plan import Settings as Rewritten
from icl_lens.section import Section, Seed
from icl_lens.tasks import TASKS, Task

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Matmul = Literal["exact", "fast"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
HubId = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$")]
# Snakemake matches paths as text: a folder has one spelling, without "./" before it or "/" behind.
Folder = Annotated[str, AfterValidator(lambda folder: str(Path(folder)))]

# The default model: weights that this project trained and ships.
EMBEDDED_MODEL = "src/icl_lens/organism/checkpoint"
# The default model of the items that have tasks of their own: weights that this project trained and ships, too.
READER_MODEL = "src/icl_lens/reader_organism/checkpoint"


def _numbers(value: Any) -> Any:
    """A list or mapping in which what is written like a number is one; anything else as it is.

    Snakemake hands over what stands inside a list or mapping on the command line (--config seeds=[1,2]) as strings.
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
    """Whether a file of a hub's repository can have that name: a relative path that stays inside."""
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
        """The folder that studies read: the user's own, or the one that the model is fetched or converted to.

        Raises:
            InputError: No repository or revision can have that name.
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
    """Where one task's two splits lie under `root`."""

    train: str | None = Field(default=None, description="The training split: demonstrations are drawn from it.")
    test: str | None = Field(default=None, description="The split whose texts are the queries.")


class Data(Section):
    """Where texts and labels come from."""

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


class Studies(Section):
    """How studies are made; those that leave nothing to choose have no key here."""

    isolation: Isolation = Field(
        default_factory=Isolation, description="Cutting label words, or others in their place, off from the text before them."
    )
    controls: controls_plan.Settings = Field(
        default_factory=controls_plan.Settings,
        description="Isolation and deep attention again with shuffled labels and on an untrained copy of the model.",
    )
    flow: flow_plan.Settings = Field(
        default_factory=flow_plan.Settings,
        description="Whose information flow is kept along every edge, for Figures 1 and 2 to draw.",
    )
    isolated_words: isolated_words_plan.Settings = Field(
        default_factory=isolated_words_plan.Settings, description="How label words are isolated in Table 5."
    )
    diagnosis: Diagnosis = Field(
        default_factory=Diagnosis, description="Telling from the keys of label words which classes a model confuses."
    )
    compression: Compression = Field(
        default_factory=Compression, description="Keeping a few keys and values of the demonstrations, or their text (Table 2)."
    )
    latency: Latency = Field(
        default_factory=Latency, description="Timing queries behind whole and compressed demonstrations (Tables 3 and 6)."
    )
    reweighting: Reweighting = Field(
        default_factory=Reweighting,
        description="Factors on the attention to label words, trained, and what they are compared with.",
    )
    # Kernel regression: attention of the last position.
    kernel_regression: KernelRegression = Field(
        default_factory=KernelRegression,
        description="Attention to each demonstration as the kernel of a regression, its baselines and its controls.",
    )
    #
    # Kernel regression: texts alone, probes, hidden Markov models.
    rewritten: Rewritten = Field(
        default_factory=Rewritten, description="Test texts rewritten by rules: how many typos, how many clauses."
    )
    label_probes: LabelProbes = Field(
        default_factory=LabelProbes,
        description="Linear probes of the keys and values around label words.",
    )
    hidden_markov: HiddenMarkov = Field(
        default_factory=HiddenMarkov,
        description="Kernel regression beside the exact posterior on random hidden Markov models; no language model is run.",
    )
    #
    # Components.
    components: Components = Field(
        default_factory=Components,
        description="Which templates heads and MLPs are asked under, and how their sum is re-weighted and calibrated.",
    )
    #
    # Representation change.
    representation_change: RepresentationChange = Field(
        default_factory=RepresentationChange,
        description="The prompts with and without examples, and what is computed of answers, representations and attention.",
    )


def settings_key(study: str) -> str:
    """The key under ``studies`` that holds a study's settings, if it has any."""
    if study in kernel_regression_plan.STUDIES:
        return "kernel_regression"
    return "controls" if study in controls_plan.STUDIES else study


def _layer(layer: int | str) -> int | str:
    if layer not in ("shallow", "deep") and not (isinstance(layer, int) and layer >= 0):
        raise ValueError(f"{layer!r} is no layer; it must be a number from 0 on, shallow or deep")
    return layer


Layer = Annotated[int | str, AfterValidator(_layer)]


class ItemChoice(Section):
    """What one figure or table shows."""

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
    """The whole config."""

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
    studies: Annotated[Studies, BeforeValidator(_numbers)] = Field(
        default_factory=Studies,
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
    groups: list[Literal[PAPERS]] = Field(
        default_factory=lambda: list(PAPERS),
        min_length=1,
        description="The papers whose figures and tables `all` makes and the report shows. The target of another paper's "
        "figure, or of its group, makes it all the same.",
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
        for item, choice in self.items.items():
            _known("items", item, ITEMS)
            for key, chosen, configured in (
                ("models", choice.models, others if ITEMS[item].own_tasks else names),
                ("tasks", choice.tasks, ITEMS[item].tasks if ITEMS[item].own_tasks else [*self.tasks, *self._variants(item)]),
            ):
                _unique(f"items.{item}.{key}", chosen or [])
                for name in chosen or []:
                    _known(f"items.{item}.{key}", name, configured)
            if choice.models and not ITEMS[item].studies:
                raise ValueError(f"items.{item}.models: {item} shows no model")
            for key, value in (("prompt", choice.prompt), ("layers", choice.layers)):
                if value is not None and not ITEMS[item].one_prompt:
                    raise ValueError(f"items.{item}.{key}: {item} does not draw a single prompt")
        return self

    def model(self, name: str) -> Model:
        """The model of that name."""
        return next(model for model in self.every_model if model.name == name)

    @property
    def every_model(self) -> list[Model]:
        """The models of all items, each once."""
        names = [model.name for model in self.models]
        return [*self.models, *(model for model in self.representation_models if model.name not in names)]

    def with_checkpoints(self) -> Config:
        """The same, with what `snakemake organism` saved in the course of a training, if it has ended, as further models.

        They are named organism-STEP and say their step, so that only items about training show them. Their paths are absolute:
        Snakemake takes them for files of the user's, and to study one is never to train it. A config that names models with a
        step itself stays as it is.
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
        """A model's number format, and how its products are computed."""
        model = self.model(name)
        return model.dtype or self.dtype, model.matmul or self.matmul

    def in_other_precisions(self, names: list[str]) -> list[str]:
        """Those of some models that are among them in float32 with exact products and otherwise, in all else run alike."""
        precisions: dict[str, set[tuple[Dtype, Matmul]]] = {}
        run = {name: self.model(name).model_dump_json(exclude={"name", "dtype", "matmul"}) for name in names}
        for name in names:
            precisions.setdefault(run[name], set()).add(self.precision(name))
        return [name for name in names if ("float32", "exact") in precisions[run[name]] and len(precisions[run[name]]) > 1]

    def task(self, name: str) -> Task:
        """The task of that name: one of the paper's or a variant of it, or the user's own."""
        definition = self.definition(name)
        return definition.task(name, TASKS) if definition else TASKS[name]

    def definition(self, task: str) -> OwnTask | None:
        """What defines a task that is none of the paper's four: the user's own, or a variant."""
        return self.own_tasks.get(task) or VARIANTS.get(task)

    def texts_of(self, task: str) -> str:
        """The task whose texts a task is made of: itself, unless it is like another."""
        own = self.definition(task)
        return (own and own.like) or task

    def settings(self, study: str, task: str) -> Section | None:
        """A study's settings for one task, if it has any; the flow of a prompt that an item of that task names is kept."""
        settings = getattr(self.studies, settings_key(study), None)
        if study != "flow":
            return settings
        named = {
            choice.prompt
            for item, choice in self.items.items()
            if choice.prompt is not None and study in ITEMS[item].studies and task in self.shown(item)[1]
        }
        return settings.model_copy(update={"also": sorted({*settings.also, *named})})

    def _variants(self, item: str) -> list[str]:
        """The variants that an item shows, of the configured tasks."""
        named = (*ITEMS[item].tasks, *ITEMS[item].stand_ins)
        return [task for task in named if task in VARIANTS and VARIANTS[task].like in self.tasks]

    def shown(self, item: str) -> tuple[list[str], list[str]]:
        """What an item shows: names of models, and of tasks: the paper's choice of those configured, and the user's own.

        An item about a variant (SST-2 with labels A and B) shows that alone. No task when there is none. An own task that some
        item is about is shown there and in the items of every task only. An item that compares number formats shows the models
        that :meth:`in_other_precisions` keeps of those chosen; an item about models of the hub, those; one about training,
        those that say their step. Each may be none. One with tasks of its own shows these, of the models configured for it.
        """
        choice = self.items.get(item, ItemChoice())
        if ITEMS[item].own_tasks:
            names = [model.name for model in self.representation_models]
            return choice.models or names, choice.tasks or list(ITEMS[item].tasks)
        paper = ITEMS[item].tasks or tuple(self.tasks)
        variants = self._variants(item)
        about_variants = any(task in VARIANTS for task in ITEMS[item].tasks)
        elsewhere = {task for other in ITEMS.values() for task in other.tasks}
        own = [task for task in self.tasks if task in self.own_tasks and task not in {*paper, *elsewhere}]
        hubs = ITEMS[item].hubs
        # A model at one step of its training is for items about that, unless there is no other.
        ended = [model for model in self.models if model.step is None] or self.models
        offered = self.models if ITEMS[item].over_training else ended
        models = choice.models or [model.name for model in offered if not hubs or model.hub in hubs]
        if ITEMS[item].compares_precisions:
            models = self.in_other_precisions(models)
        if ITEMS[item].over_training:
            models = [name for name in models if self.model(name).step is not None]
        theirs = [task for task in paper if task in self.tasks or task in variants]
        if ITEMS[item].stand_ins:
            instead = [task for task in ITEMS[item].stand_ins if task in self.tasks or task in variants]
            return models, choice.tasks or theirs or instead[:1]
        return models, choice.tasks or (theirs if about_variants else [*theirs, *own])


def parse(mapping: Mapping[str, Any]) -> Config:
    """A config from the mapping that YAML gives.

    Raises:
        InputError: One sentence per fault: the key, its value, what was expected, the nearest valid key.
    """
    try:
        return Config.model_validate(dict(mapping))
    except ValidationError as error:
        raise InputError("; ".join(_sentence(detail) for detail in error.errors())) from None


def parse_recipe(text: str) -> Recipe:
    """The keys under ``organism``, as YAML.

    Raises:
        InputError: As :func:`parse`.
    """
    return parse({"organism": _yaml_option("--recipe", text)}).organism


def parse_reader_recipe(text: str) -> ReaderRecipe:
    """The keys under ``reader_organism``, as YAML.

    Raises:
        InputError: As :func:`parse`.
    """
    return parse({"reader_organism": _yaml_option("--recipe", text)}).reader_organism


def parse_settings(study: str, text: str) -> Section:
    """A study's settings: the keys under ``studies`` and :func:`settings_key`, as YAML.

    Raises:
        InputError: As :func:`parse`.
    """
    key = settings_key(study)
    return getattr(parse({"studies": {key: _yaml_option("--settings", text)}}).studies, key)


def parse_task(name: str, definition: str | None) -> tuple[Task, OwnTask | None]:
    """The task of that name, and for one of the user's own its keys under ``own_tasks``, given as YAML.

    Raises:
        InputError: As :func:`parse`, or the name is unknown.
    """
    config = parse({"tasks": [name], "own_tasks": {name: _yaml_option("--definition", definition)} if definition else {}})
    return config.task(name), config.own_tasks.get(name)


def _yaml_option(option: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{option} is not YAML: {' '.join(str(error).split())}") from error


def load(*paths: Path | str) -> Config:
    """The config in one YAML file, or in several, each laid over those before it as Snakemake does it.

    Raises:
        InputError: A file is absent or is not YAML, or :func:`parse` refuses what they say.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _overlaid(merged, _mapping(path))
    return parse(merged)


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; anything else is replaced."""
    both = {
        key: _overlaid(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}


def _mapping(path: Path | str) -> Mapping[str, Any]:
    try:
        mapping = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path} is not a config: it should hold `key: value` lines")
    return mapping


def default_yaml() -> str:
    """The text of ``config.yaml``: every key with its meaning and its default."""
    lines = [
        "# yaml-language-server: $schema=workflow/schemas/config.schema.json",
        "# The default run: the embedded model on the built-in texts, a few minutes on a laptop.",
        "# Printed by `make config` from src/icl_lens/config.py. Override keys in a file of your own:",
        "#     snakemake --cores all --configfile my.yaml",
        "# Mappings are merged key by key; a list replaces the list here.",
    ]
    defaults = Config().model_dump(exclude_none=True)
    for key in ("models", "representation_models"):
        defaults[key] = [model.model_dump(exclude_defaults=True) for model in getattr(Config(), key)]
    for key, field in Config.model_fields.items():
        lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 100))]
        flow = None if isinstance(defaults[key], dict | list) else False  # a list of scalars stays on one line
        value = yaml.safe_dump({key: defaults[key]}, sort_keys=False, default_flow_style=flow, width=100)
        lines += value.rstrip("\n").splitlines()
    return "\n".join(lines) + "\n"


def schema_json() -> str:
    """The text of the config's JSON schema, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def reference_markdown() -> str:
    """The text of ``config/reference.md``: every key at every depth, its default and its meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|", *_reference_rows(Config, "")]
    return "# Every key\n\nPrinted by `make config` from `src/icl_lens/config.py`.\n\n" + "\n".join(rows) + "\n"


def _reference_rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        inner = _section_of(field.annotation)
        plain = not inner and default is not None and default is not PydanticUndefined
        shown = f"`{json.dumps(default)}`" if plain else ""
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {shown} | {meaning} |")
        if inner:
            below = {list: "[].", dict: ".*."}.get(type(default), ".")
            rows += _reference_rows(inner, f"{prefix}{name}{below}")
    return rows


def _unique(key: str, values: list[Any]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{key}: {twice[0]!r} stands there twice")


def _known(key: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise ValueError(f"{key}: {value!r} is unknown; {_suggest(value, list(valid))}")


def _suggest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    known = ", ".join(valid)
    return f"did you mean {close[0]!r}? (known: {known})" if close else f"known: {known}"


def _sentence(detail: ErrorDetails) -> str:
    """One pydantic fault as a sentence for the person who wrote the config."""
    location = detail["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    value = detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            return f"config: unknown key {key!r} (= {value!r}); {_suggest(str(location[-1]), _keys_at(location[:-1]))}"
        case "missing":
            return f"config: {key!r} is missing"
        case "value_error":
            fault = str(detail["ctx"]["error"])
            # A fault of one section does not always say which: the sections of a mapping or list have the same words.
            return f"config: {fault}" if fault.startswith(key.split(".")[0].split("[")[0]) else f"config: {key}: {fault}"
        case "model_type" | "dict_type":
            return f"config: {key!r} is {value!r}; it must be a mapping of keys to values"
        case "string_pattern_mismatch":
            return f"config: {key!r} is {value!r}; a name is made of letters, digits, dots, underscores and hyphens"
        case "list_type":
            return f"config: {key!r} is {value!r}; it must be a list, such as [{value!r}]"
        case "literal_error":
            return f"config: {key!r} is {value!r}; it must be {detail['ctx']['expected']}"
        case _:
            message = detail["msg"][:1].lower() + detail["msg"][1:]
            return f"config: {key!r} is {value!r}: {message.replace('input should', 'it should')}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at a place in the config."""
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as ``list[Model]`` or ``dict[str, SplitFiles]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner))), None)
