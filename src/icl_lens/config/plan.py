"""Estimate of the jobs, time, memory and disk space of a run before it starts, from Snakemake's summary of the files to create.

    snakemake --summary --configfile my.yaml | icl-lens plan --config config.yaml my.yaml --card h100-80gb

Snakemake determines the jobs. :mod:`icl_lens.config.prediction` predicts the cost of each on the named card.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from icl_lens.config import model_sizes, prediction
from icl_lens.config.keys import Config
from icl_lens.config.prediction import BYTES, SHARE, Card, Prediction
from icl_lens.errors import InputError
from icl_lens.studies import registry

CARD = "h100-80gb"
"""Card for which a run is planned by default."""

# Numbers of cards for which the wall time is given, and hours after which a job should be divided.
CARDS, LONG_HOURS = (1, 4, 8), 24

# Bytes per prompt in an artifact (values for 48 layers or conditions, uncompressed), and upper bound of the bytes of the four
# data sets as Parquet.
PROMPT_BYTES = 4000
DATA_BYTES = 50e6


@dataclass(frozen=True)
class StudyJob:
    """One job of a study and its predicted cost.

    Attributes:
        path: Path of its table.
        model: The name of the model.
        study: The name of the study.
        predicted: Time, memory and operations.
    """

    path: PurePosixPath
    model: str
    study: str
    predicted: Prediction

    @property
    def hours(self) -> float:
        return self.predicted.seconds / 3600


def jobs(summary: Iterable[str]) -> tuple[Counter, list[PurePosixPath]]:
    """Read the jobs to run from the output of ``snakemake --summary``.

    Returns:
        The number of jobs per rule, and the paths of the tables of studies; for a study with shards, the paths of the shards.

    Raises:
        InputError: The input is not a Snakemake summary.
    """
    records = (line.rstrip("\r\n").split("\t") for line in summary)  # Snakemake quotes no field
    header = next(records, [])
    if not {"output_file", "rule", "plan"} <= set(header):
        raise InputError(
            "standard input is not a Snakemake summary; pipe the output of `snakemake --summary --configfile ...` into this"
        )
    studies = [study for study in registry.studies().values() if study.reads]
    merging = {registry.shard_rule(study): registry.rule(study) for study in studies}
    rules = {*merging, *merging.values()}
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
        rules.discard(merging.get(row["rule"], ""))  # if a study has shards, its own rule only merges them
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


def estimate(config: Config, path: PurePosixPath, card: Card = prediction.CARDS[CARD]) -> StudyJob:
    """Predict the cost of one job of a study, given the path of its table."""
    model, _, _, study, _ = prediction.parts(path)
    return StudyJob(path, model, study, prediction.predict(config, path, card))


def report(config: Config, summary: Iterable[str], card_name: str = CARD) -> Iterator[str]:
    """Yield the lines of the plan.

    Raises:
        InputError: The card is unknown, the summary is not one of Snakemake, or the size of a model is unknown.
    """
    card = prediction.card(card_name)
    counts, paths = jobs(summary)
    yield f"{sum(counts.values())} jobs: {', '.join(f'{count} {rule}' for rule, count in sorted(counts.items())) or 'none'}"
    studies = [estimate(config, path, card) for path in paths]
    yield ""
    yield f"Card: {card.name}. Time and memory are predictions (docs/scale.md), memory that of the largest job."
    yield ""
    yield "| model | study | jobs | prompts | 10^15 operations | hours | GB in the machine | GB on the card |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[Prediction]] = {}
    for study in studies:
        groups.setdefault((study.model, study.study), []).append(study.predicted)
    for (model, name), group in groups.items():
        host, device = max(each.host_bytes for each in group), max(each.device_bytes for each in group)
        yield (
            f"| {model} | {name} | {len(group)} | {_totals(group)} | {host / 1e9:.1f} | "
            f"{'-' if card.on_host else f'{device / 1e9:.1f}'} |"
        )
    yield f"| all | | {len(studies)} | {_totals([study.predicted for study in studies])} | | |"
    yield ""
    hours = [study.hours for study in studies]
    walls = ", ".join(f"{wall_time(hours, cards):.2f} with {cards}" for cards in CARDS)
    yield f"{'CPU' if card.on_host else 'GPU'} hours: {sum(hours):.2f}; wall time in hours, one job per card: {walls}"
    largest: dict[tuple[str, str], StudyJob] = {}  # of each model and study; the key that helps it helps the others
    for study in sorted(studies, key=lambda study: (study.predicted.device_bytes, study.predicted.host_bytes, study.hours)):
        largest[study.model, study.study] = study
    longest = {(study.model, study.study): study for study in sorted(studies, key=lambda study: study.hours)}
    for key in groups:
        if warning := warn(config, largest[key], card) or warn(config, longest[key], card):
            yield warning
    models = [config.model(name) for name in dict.fromkeys(study.model for study in studies)]
    fetched = sum(model_sizes.size(config, model).download for model in models)
    results = sum(study.predicted.prompts for study in studies) * PROMPT_BYTES
    data = DATA_BYTES if counts["fetch_dataset"] else 0
    yield (
        f"disk space, at most: {(fetched + data) / 1e9:.1f} GB of downloads in {config.downloads} ({fetched / 1e9:.1f} GB for "
        f"models), {results / 1e9:.1f} GB of results in {config.results}"
    )
    rates = ", ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in card.rates.items())
    source = "fitted to one thread of the machine of docs/scale.md" if card.on_host else f"{SHARE:.0%} of the vendor's peak"
    start, load_rate = card.constants.start, 1e-9 / card.constants.loaded
    yield f"assumptions: TFLOP/s {rates} ({source}); each job starts in {start:g} s and loads weights at {load_rate:.2g} GB/s"
    yield (
        "tokens per text: means of the paper's data sets with the GPT-2 tokenizer, or of the built-in texts, "
        f"{prediction.OTHER_TEXT} for all other texts; figures, tables and downloads are not in the times"
    )


def _totals(group: Sequence[Prediction]) -> str:
    """Return the columns of the sums over some jobs."""
    operations = sum(each.operations.total for each in group)
    hours = sum(each.seconds for each in group) / 3600
    return f"{sum(each.prompts for each in group)} | {operations / 1e15:.1f} | {hours:.2f}"


def wall_time(times: Iterable[float], cards: int) -> float:
    """Return the time until all jobs are done, one job per card, if the longest jobs start first."""
    busy_until = [0.0] * cards
    for time in sorted(times, reverse=True):
        heapq.heappush(busy_until, heapq.heappop(busy_until) + time)
    return max(busy_until)


def warn(config: Config, study: StudyJob, card: Card) -> str | None:
    """Return one sentence if a job does not fit the card or takes long, with the config key that helps, or else None."""
    if "auto" in (getattr(config.model(study.model), "placement", None), getattr(config, "placement", None)):
        return None  # the layers are spread over all devices
    name = f"warning: {study.study} of {study.model}"
    available, used = prediction.memory_of(card), study.predicted
    needed = used.host_bytes if card.on_host else used.device_bytes
    if needed > available:
        problem = f"{name} needs {needed / 1e9:.1f} GB, but {card.name} has {available / 1e9:.1f} GB"
        return f"{problem}; {_remedy(config, study, card, available)}"
    if study.hours > LONG_HOURS:
        parts = -int(-study.hours // LONG_HOURS)
        return f"{name} takes {study.hours:.0f} hours on {card.name}; set shards to {parts} to divide it into shorter jobs"
    return None


def _remedy(config: Config, study: StudyJob, card: Card, available: int) -> str:
    """Return the config key, and its value, with which a job fits a card."""
    dtype, _ = config.precision(study.model)

    def needed(**changes: object) -> int:
        if "dtype" in changes:
            update = {"dtype": changes["dtype"]}
            for key in ("models", "representation_models"):
                changes[key] = [
                    each.model_copy(update=update) if each.name == study.model else each for each in getattr(config, key)
                ]
        found = prediction.predict(config.model_copy(update=changes), study.path, card)
        return found.host_bytes if card.on_host else found.device_bytes

    tokens = config.batch_tokens
    while tokens > 256:
        tokens //= 2
        if needed(batch_tokens=tokens) <= available:
            return f"set batch_tokens to {tokens}"
    if BYTES[dtype] == 4 and needed(dtype="bfloat16", batch_tokens=256) <= available:
        tokens = config.batch_tokens
        while needed(dtype="bfloat16", batch_tokens=tokens) > available:
            tokens //= 2
        fewer = f" and batch_tokens to {tokens}" if tokens < config.batch_tokens else ""
        return f"set dtype to bfloat16{fewer}, or placement to auto, which spreads the layers over several cards and the CPU"
    return "set placement to auto, which spreads the layers over several cards and the CPU"
