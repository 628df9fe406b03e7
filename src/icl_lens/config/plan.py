"""Estimate of the jobs, GPU hours and disk space of a run before it starts, from Snakemake's summary of the files to create.

    snakemake --summary --configfile my.yaml | icl-lens plan --config config.yaml my.yaml

Snakemake determines the jobs. Their cost is an estimate, and the printed table lists its assumptions. A forward pass costs 2
floating-point operations per parameter and token. The attention matrices are small at these lengths and are neglected. Each
study declares its number of forward passes and tokens (:mod:`icl_lens.studies.cost`). No estimate is based on measured times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from icl_lens import json_text
from icl_lens.config.keys import Config, Model
from icl_lens.corpora.builtin import class_counts
from icl_lens.corpora.published import COUNTS
from icl_lens.errors import InputError
from icl_lens.hub import gguf_files
from icl_lens.prompts.protocol import Protocol
from icl_lens.prompts.schema import PROMPTS
from icl_lens.studies import registry
from icl_lens.studies.cost import Job
from icl_lens.studies.study import Study


class Size(NamedTuple):
    """Size of a model.

    Attributes:
        parameters: The number of parameters.
        layers: The number of layers.
        download: The bytes to download; 0 if the model is available locally.
    """

    parameters: int
    layers: int
    download: int


# Sizes of Hub models, for estimates before they are downloaded. A parameter takes 4 bytes in the files of GPT2-XL and GPT-J,
# and 2 bytes in those of LLaMA, Llama 2 and Llama 3.
SIZES: dict[str, Size] = {
    "openai-community/gpt2-xl": Size(1_557_611_200, 48, 4 * 1_557_611_200),
    "EleutherAI/gpt-j-6b": Size(6_050_882_784, 28, 4 * 6_050_882_784),
    "huggyllama/llama-30b": Size(32_528_943_616, 60, 2 * 32_528_943_616),
    "meta-llama/Llama-2-7b-hf": Size(6_738_415_616, 32, 2 * 6_738_415_616),
    "meta-llama/Meta-Llama-3-8B": Size(8_030_261_248, 32, 2 * 8_030_261_248),
}

# Mean number of tokens of a prompt with one demonstration per class, and of its query (with the template), in the paper's data
# sets with the GPT-2 tokenizer. Other tokenizers differ by a few percent.
TOKENS: dict[str, tuple[int, int]] = {"sst2": (71, 30), "trec": (131, 14), "agnews": (291, 57), "emoc": (123, 22)}

# Assumed number of tokens of one text with its template, for all other tasks.
OTHER_TEXT = 60

# Assumed throughput of one current data-centre GPU at these small batch sizes, in TFLOP/s, by number format.
TERAFLOPS = {"float32": 20.0, "float16": 150.0, "bfloat16": 150.0}

# Assumed bytes per second for reading weights from disk, bytes per prompt in an artifact (values for 48 layers or conditions,
# uncompressed), and upper bound of the bytes of the four data sets as Parquet.
READ_RATE = 1e9
PROMPT_BYTES = 4000
DATA_BYTES = 50e6


@dataclass(frozen=True)
class StudyJob:
    """One job of a study and its estimated cost.

    Attributes:
        model: The name of the model.
        study: The name of the study.
        prompts: The number of prompts.
        hours: GPU hours, including the time to load the model.
    """

    model: str
    study: str
    prompts: int
    hours: float


def jobs(summary: Iterable[str]) -> tuple[Counter, list[PurePosixPath]]:
    """Read the jobs to run from the output of ``snakemake --summary``.

    Returns:
        The number of jobs per rule, and the paths of the artifacts of studies.

    Raises:
        InputError: The input is not a Snakemake summary.
    """
    records = (line.rstrip("\r\n").split("\t") for line in summary)  # Snakemake quotes no field
    header = next(records, [])
    if not {"output_file", "rule", "plan"} <= set(header):
        raise InputError(
            "standard input is not a Snakemake summary; pipe the output of `snakemake --summary --configfile ...` into this"
        )
    rules = {registry.rule(study) for study in registry.studies().values() if study.reads}
    seen: dict[tuple[str, str], PurePosixPath] = {}
    for number, record in enumerate(records, 2):
        if record == [""]:
            continue
        if len(record) != len(header):
            raise InputError(
                f"standard input, line {number}: a row has {len(record)} of the {len(header)} fields of a Snakemake summary; "
                "pipe the complete output of `snakemake --summary` into this"
            )
        row = dict(zip(header, record, strict=True))
        if row["plan"].startswith("no update"):
            continue
        path = PurePosixPath(row["output_file"])
        # One job writes all files of a figure, a table or the report. Each other file is counted as one job.
        names = {"figure": path.name.partition(".")[0], "table": path.name.partition(".")[0], "report": ""}
        name = names.get(row["rule"], str(path))
        if row["rule"] in rules:  # a study writes a table and sometimes a file of tensors
            path = path.with_suffix(".parquet")
            name = str(path)
        seen.setdefault((row["rule"], name), path)
    counts = Counter(rule for rule, _ in seen)
    return counts, [path for (rule, _), path in seen.items() if rule in rules]


def estimate(config: Config, path: PurePosixPath) -> StudyJob:
    """Estimate the cost of one job of a study, given the path of its artifact."""
    model_name, task, set_name = path.parts[-4:-1]
    study, model = registry.study(path.stem), config.model(model_name)
    parameters, layers, _ = size(config, model)
    work = study.cost(_job(config, study, task, set_name, layers))
    dtype = model.dtype or config.dtype
    width = 4 if dtype == "float32" else 2
    seconds = 2 * parameters * work.tokens / (TERAFLOPS[dtype] * 1e12) + parameters * width / READ_RATE
    return StudyJob(model_name, study.name, work.prompts, seconds / 3600)


def _job(config: Config, study: Study, task: str, set_name: str, layers: int) -> Job:
    """Return the quantities that determine the cost of a study.

    The study itself determines the sizes of prompts that are not drawn from a corpus (``paired``).
    """
    settings = config.settings(study.name, task)
    if study.reads is not PROMPTS:
        return Job(settings, task, layers, len(config.seeds), config.queries, OTHER_TEXT, 0, True)
    protocol = Protocol.of(set_name)
    classes = len(config.task(task).label_words)
    full, query = TOKENS.get(config.text_source(task), (OTHER_TEXT * (classes + 1), OTHER_TEXT))
    return Job(
        settings,
        task,
        layers,
        seeds=len(config.seeds),
        queries=min(config.queries, _test_size(config, task)),
        query=query,
        demonstrations=protocol.shots_per_class(classes) * (full - query),
        fresh=protocol.fresh,
    )


def size(config: Config, model: Model) -> Size:
    """Return the size of a model, from its files or, before it is downloaded, from :data:`SIZES`.

    Raises:
        InputError: The model is not available locally and its size is unknown.
    """
    folder = Path(model.folder(config.downloads))
    if weights := sorted(folder.glob("*.safetensors")):
        from safetensors import SafetensorError

        try:
            shape = json_text.loads((folder / "config.json").read_text(encoding="utf-8"))
            return Size(sum(_parameters(file) for file in weights), int(shape.get("num_hidden_layers") or shape["n_layer"]), 0)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"model {model.name}: {folder} is not a complete checkpoint; fetch or copy it again") from error
    if model.gguf is not None and model.hub is None:
        header = gguf_files.check(model.gguf)
        if header.layers is not None:
            return Size(header.parameters, header.layers, 0)
    if model.gguf is None and model.hub in SIZES:
        downloaded = any(folder.glob("*.bin"))
        return SIZES[model.hub]._replace(download=0) if downloaded else SIZES[model.hub]
    raise InputError(
        f"model {model.name}: the size is unknown until the model is fetched; fetch it, or plan without this model"
    )


def report(config: Config, summary: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the plan."""
    counts, paths = jobs(summary)
    yield f"{sum(counts.values())} jobs: {', '.join(f'{count} {rule}' for rule, count in sorted(counts.items())) or 'none'}"
    studies = [estimate(config, path) for path in paths]
    yield ""
    yield "| model | study | jobs | prompts | GPU hours |"
    yield "|---|---|---|---|---|"
    for key in dict.fromkeys((study.model, study.study) for study in studies):
        group = [study for study in studies if (study.model, study.study) == key]
        hours = sum(study.hours for study in group)
        yield f"| {key[0]} | {key[1]} | {len(group)} | {sum(study.prompts for study in group)} | {hours:.2f} |"
    yield f"| all | | {len(studies)} | | {sum(study.hours for study in studies):.2f} |"
    yield ""
    models = [config.model(name) for name in dict.fromkeys(study.model for study in studies)]
    fetched = sum(size(config, model).download for model in models)
    largest = max(
        (size(config, m).parameters * (4 if (m.dtype or config.dtype) == "float32" else 2) for m in models), default=0
    )
    results = sum(study.prompts for study in studies) * PROMPT_BYTES
    data = DATA_BYTES if counts["fetch_dataset"] else 0
    yield (
        f"disk space, at most: {(fetched + data) / 1e9:.1f} GB of downloads in {config.downloads} ({fetched / 1e9:.1f} GB for "
        f"models), {results / 1e9:.1f} GB of results in {config.results}"
    )
    yield f"GPU memory: {largest / 1e9:.1f} GB for the weights of the largest model, plus memory for one batch"
    rates = ", ".join(f"{rate:g} TFLOP/s in {dtype}" for dtype, rate in TERAFLOPS.items())
    all_studies = registry.studies().items()
    passes = ", ".join(f"{name} {study.cost.passes:g}" for name, study in all_studies if study.reads and study.cost.passes)
    yield (
        f"estimates, not measurements: 2 operations per parameter and token; forward passes: {passes}, plus one per condition "
        "(for compression, over the queries only)"
    )
    yield f"assumptions: {rates}; each job reads the weights once, at {READ_RATE / 1e9:g} GB/s"
    yield f"tokens per text: means of the paper's data sets with the GPT-2 tokenizer, {OTHER_TEXT} for all other texts"


def _test_size(config: Config, task: str) -> int:
    """Return the number of test texts of a task; for the user's own task, the number of requested queries."""
    name = config.text_source(task)
    if name not in COUNTS:
        return config.queries
    return sum((class_counts(name) if config.data.source == "builtin" else COUNTS[name])["test"])


def _parameters(file: Path) -> int:
    from math import prod

    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - not a mapping
