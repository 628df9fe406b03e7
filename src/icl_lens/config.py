"""The config as typed models: every key's meaning, unit, default and allowed values, in this one place.

``config.yaml`` and the JSON schema are printed from here (``icl-lens config``), so they cannot drift apart.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticUndefined

from icl_lens.errors import InputError
from icl_lens.items import ITEMS
from icl_lens.organism.recipe import Recipe
from icl_lens.provenance import STAGES
from icl_lens.section import Section, Seed
from icl_lens.tasks import TASKS

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "float16", "bfloat16"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

# The default model: weights that this project trained and ships.
EMBEDDED_MODEL = "src/icl_lens/organism/checkpoint"


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


class Model(Section):
    """One language model."""

    name: Name = Field(description="The name in paths and figures.")
    path: str = Field(
        min_length=1,
        description="A folder with a decoder-only checkpoint (config.json, *.safetensors) and its fast tokenizer.",
    )
    dtype: Dtype | None = Field(default=None, description="Overrides `dtype` for this model.")


class SplitFiles(Section):
    """Where one task's two splits lie under `root`."""

    train: str | None = Field(default=None, description="The training split: demonstrations are drawn from it.")
    test: str | None = Field(default=None, description="The split whose texts are the queries.")


class Data(Section):
    """Where texts and labels come from."""

    source: Literal["builtin", "files"] = Field(
        default="builtin",
        description="builtin: look-alikes of the four data sets, generated here, no download. "
        "files: the data sets' original files in the folder `root`.",
    )
    seed: Seed = Field(default=0, description="builtin only: the seed of the generated texts.")
    root: str | None = Field(default=None, description="files only: the folder that holds the data sets.")
    files: dict[str, SplitFiles] = Field(
        default_factory=dict,
        description="files only: other file names under `root`, e.g. {agnews: {train: agnews/train_subset.csv}}.",
    )

    @model_validator(mode="after")
    def _root_goes_with_files(self) -> Data:
        if self.source == "files" and not self.root:
            raise ValueError("data.source is 'files', so data.root must name the folder that holds the files")
        if self.source == "builtin" and (self.root or self.files):
            raise ValueError("data.root and data.files need data.source: files, but data.source is 'builtin'")
        return self


class ItemChoice(Section):
    """What one figure or table shows."""

    models: list[Name] | None = Field(default=None, min_length=1, description="Names of configured models.")
    tasks: list[str] | None = Field(default=None, min_length=1, description="Names of configured tasks.")


class Config(Section):
    """The whole config."""

    results: str = Field(
        default="results", min_length=1, description="The folder for everything that is made. Overlays use their own."
    )
    models: list[Model] = Field(
        default_factory=lambda: [Model(name="organism", path=EMBEDDED_MODEL)],
        min_length=1,
        description="The language models to study; each has a `name` (in paths and figures), a `path` (a folder with a "
        "decoder-only checkpoint in safetensors and its tokenizer) and, where it differs from `dtype` below, a `dtype`. "
        "The default is the small model that is trained by this project and shipped with it.",
    )
    tasks: list[str] = Field(
        default_factory=lambda: list(TASKS),
        min_length=1,
        description="The classification tasks. Leave one out and every figure leaves it out.",
    )
    data: Data = Field(
        default_factory=Data,
        description="Where texts come from. `source: builtin` generates look-alikes of the four data sets from `seed`; "
        "`source: files` reads the original files from the folder `root` (see config/README.md for their names).",
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
        default="auto", description="Where the model runs: auto (the first of cuda, mps, cpu that is there), or one."
    )
    dtype: Dtype = Field(
        default="float32", description="The model's number format: float32 (as in the paper), float16 or bfloat16."
    )
    batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens per batch, padding included. Changes speed and memory, never a result beyond rounding.",
    )
    organism: Annotated[Recipe, BeforeValidator(_numbers)] = Field(
        default_factory=Recipe,
        description="How `snakemake organism` trains a model that learns in context, from the texts of the tasks above. `all` "
        "never trains. The default makes the embedded model; config/README.md explains each key.",
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
        _unique("tasks", self.tasks)
        _unique("seeds", self.seeds)
        for name in names:
            if name in STAGES:
                raise ValueError(f"models: the name {name!r} is a folder of the results tree; choose another")
        for task in self.tasks:
            _known("tasks", task, TASKS)
        for task in self.data.files:
            _known("data.files", task, TASKS)
        for item, choice in self.items.items():
            _known("items", item, ITEMS)
            for key, chosen, configured in (("models", choice.models, names), ("tasks", choice.tasks, self.tasks)):
                _unique(f"items.{item}.{key}", chosen or [])
                for name in chosen or []:
                    _known(f"items.{item}.{key}", name, configured)
            if choice.models and not ITEMS[item].studies:
                raise ValueError(f"items.{item}.models: {item} shows no model")
        return self

    def model(self, name: str) -> Model:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)

    def shown(self, item: str) -> tuple[list[str], list[str]]:
        """What an item shows: names of models, and of tasks. No task when none of the paper's is configured."""
        choice = self.items.get(item, ItemChoice())
        paper = ITEMS[item].tasks or tuple(self.tasks)
        models = choice.models or [model.name for model in self.models]
        return models, choice.tasks or [task for task in paper if task in self.tasks]


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
    try:
        mapping = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--recipe is not YAML: {' '.join(str(error).split())}") from error
    return parse({"organism": mapping}).organism


def load(path: Path | str) -> Config:
    """The config in one YAML file.

    Raises:
        InputError: The file is absent, is not YAML, or :func:`parse` refuses it.
    """
    try:
        mapping = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path} is not a config: it should hold `key: value` lines")
    return parse(mapping)


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
            return f"config: {detail['ctx']['error']}"
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
