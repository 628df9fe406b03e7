"""Prediction of the time and the memory of a study's job on a named card, before the job runs.

The time of a job is a sum of eight products (:class:`Terms`), each of a number that follows from the study, the prompts and the
model, and of a constant of the card (:class:`Card`). Most of the time of a large job are its operations, those of matrix
products (a multiplication and an addition are two operations). For T tokens, N pairs of a query and a key, and R rows (prompts,
once per pass) they are

    linear       2 x parameters of the layers x T
    attention    4 x layers x heads x width of a head x N
    vocabulary   2 x width x vocabulary x R, if a study needs the logits of all tokens

Each study declares T, N and R (:mod:`icl_lens.studies.cost`). The rate of a graphics card is :data:`SHARE` of the dense peak
that its vendor states for a number format, and is the same for all studies and models. All other constants of a graphics card
are assumptions. Those of the CPU are fitted to measurements (``benchmarks/prediction.py``).

Memory is the sum of the libraries, the weights, and the largest batch (:mod:`icl_lens.network.memory`). This module does not
import torch, because the workflow calls it for each job.
"""

from __future__ import annotations

import os
import re
from math import ceil
from pathlib import PurePosixPath
from typing import NamedTuple

from icl_lens.config import model_sizes
from icl_lens.config.keys import Config, suggest
from icl_lens.config.model_sizes import Size
from icl_lens.corpora.builtin import class_counts
from icl_lens.corpora.published import COUNTS
from icl_lens.errors import InputError
from icl_lens.network import memory
from icl_lens.prompts.protocol import Protocol
from icl_lens.prompts.schema import PROMPTS
from icl_lens.studies import registry
from icl_lens.studies.cost import Job, Work
from icl_lens.studies.study import Study

GIB = 2**30

# Shares of the vendor's peak rate of matrix products and of its peak bandwidth that are assumed for all graphics cards.
SHARE, BANDWIDTH_SHARE = 0.4, 0.8

# Mean number of tokens of a prompt with one demonstration per class, and of its query (with the template), in the paper's data
# sets with the GPT-2 tokenizer, and in the built-in texts. Other tokenizers differ by a few percent.
TOKENS: dict[str, tuple[int, int]] = {"sst2": (71, 30), "trec": (131, 14), "agnews": (291, 57), "emoc": (123, 22)}
BUILTIN_TOKENS: dict[str, tuple[int, int]] = {"sst2": (68, 22), "trec": (156, 22), "agnews": (98, 19), "emoc": (142, 27)}

# Assumed number of tokens of one text with its template, for all other tasks.
OTHER_TEXT = 60

# Assumed ratio of the tokens in batches, with padding, to those of the prompts.
PADDING = 1.06

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Terms(NamedTuple):
    """Numbers that determine the time of a job. Each is multiplied by a constant of the card.

    Attributes:
        start: One start: imports, and checks of the model.
        tokenizer: Number of tokens of the tokenizer that is loaded.
        loaded: Bytes of weights that are loaded. Their hashes are cached.
        operations: Operations of the matrix products.
        layers: Number of layers that run, once per batch.
        weights: Bytes of weights that are read from memory, once per batch.
        activations: Number of activations and attention weights that are computed.
        rows: Number of rows of all batches.
    """

    start: float
    tokenizer: float
    loaded: float
    operations: float
    layers: float
    weights: float
    activations: float
    rows: float


class Card(NamedTuple):
    """A device that runs studies.

    Attributes:
        name: Its name in ``--card``.
        memory: Its memory in bytes; None for the memory of the machine.
        rates: Operations per second of matrix products in float32, tf32 (float32 with ``matmul: fast``), float16 and bfloat16.
        constants: Seconds per unit of each of the :class:`Terms`, except for the operations.
    """

    name: str
    memory: int | None
    rates: dict[str, float]
    constants: Terms

    @property
    def on_host(self) -> bool:
        """Whether the device uses the memory of the machine."""
        return self.memory is None

    def rate(self, dtype: str, matmul: str) -> float:
        """Return the operations per second of matrix products of a model in a number format, with ``matmul`` exact or fast."""
        return self.rates["tf32" if dtype == "float32" and matmul == "fast" else dtype]

    def seconds(self, terms: Terms, dtype: str, matmul: str, threads: int = 1) -> float:
        """Return the time of a job. Only a CPU computes matrix products faster with more threads."""
        rate = self.rate(dtype, matmul) * (threads if self.on_host else 1)
        others = sum(number * constant for number, constant in zip(terms, self.constants, strict=True))
        return others + terms.operations / rate


def _gpu(name: str, gigabytes: int, float32: float, tf32: float, half: float, terabytes: float) -> Card:
    """Return a graphics card from the vendor's numbers: memory in GB, dense peaks in TFLOP/s, and TB/s."""
    peaks = {"float32": float32, "tf32": tf32, "float16": half, "bfloat16": half}
    rates = {number_format: SHARE * peak * 1e12 for number_format, peak in peaks.items()}
    byte = 1 / (BANDWIDTH_SHARE * terabytes * 1e12)
    # An activation is written once and read once, in at most four bytes.
    constants = Terms(8.0, 2.2e-5, 1e-9, operations=0.0, layers=150e-6, weights=byte, activations=8 * byte, rows=60e-6)
    return Card(name, gigabytes * 10**9, rates, constants)


# The vendors' peaks without sparsity, with sums in float32. TF32 equals float32 on a card without faster float32 products.
_CARDS = (
    _gpu("t4-16gb", 16, 8.1, 8.1, 65, 0.32),
    _gpu("v100-32gb", 32, 15.7, 15.7, 125, 0.9),
    _gpu("rtx-3090-24gb", 24, 35.6, 35.6, 71, 0.94),
    _gpu("rtx-4090-24gb", 24, 82.6, 82.6, 165, 1.01),
    _gpu("l4-24gb", 24, 30.3, 60, 121, 0.3),
    _gpu("l40s-48gb", 48, 91.6, 183, 362, 0.86),
    _gpu("a100-40gb", 40, 19.5, 156, 312, 1.56),
    _gpu("a100-80gb", 80, 19.5, 156, 312, 2.04),
    _gpu("h100-80gb", 80, 67, 494, 989, 3.35),
    _gpu("h200-141gb", 141, 67, 494, 989, 4.8),
    # One thread of the machine of docs/scale.md. A CPU without AMX has no faster float32 products.
    Card(
        "cpu",
        None,
        {"float32": 120e9, "tf32": 120e9, "float16": 20e9, "bfloat16": 20e9},
        Terms(2.5, 3.8e-5, 3.3e-10, operations=0.0, layers=5.4e-4, weights=9.1e-11, activations=1.3e-10, rows=1.8e-4),
    ),
)
CARDS: dict[str, Card] = {card.name: card for card in _CARDS}

# Bytes of the libraries and of a token of the tokenizer in the memory of the machine and, in addition, of the libraries of CUDA
# there and on the card.
LIBRARIES, TOKEN_BYTES, CUDA_LIBRARIES, CUDA_CONTEXT = int(0.52 * GIB), 1200, int(2.5 * GIB), int(0.8 * GIB)

# Bytes of attention rows that a backward pass holds at a time: four matrices of icl_lens.attention.flow_kernel on a CPU and on
# other devices.
FLOW_ROWS = {True: 4 * 4 * 2**19, False: 4 * 4 * 2**26}


class Operations(NamedTuple):
    """Operations of the matrix products of a job, forward and backward."""

    linear: float
    attention: float
    vocabulary: float

    @property
    def total(self) -> float:
        return sum(self)


class Prediction(NamedTuple):
    """Predicted cost of one job.

    Attributes:
        seconds: Time of the job, including the time to load the model.
        host_bytes: Largest memory of the process in the machine.
        device_bytes: Largest memory on the card; 0 on a CPU.
        operations: Operations of its matrix products.
        prompts: Number of prompts.
    """

    seconds: float
    host_bytes: int
    device_bytes: int
    operations: Operations
    prompts: int


def card(name: str) -> Card:
    """Return the card with the given name.

    Raises:
        InputError: No such card is known.
    """
    if name not in CARDS:
        raise InputError(f"--card: unknown card {name!r}; {suggest(name, list(CARDS))}")
    return CARDS[name]


def predict(config: Config, path: PurePosixPath, card: Card, threads: int = 1) -> Prediction:
    """Predict the cost of one job of a study.

    Args:
        config: The config of the run.
        path: Path of the study's table, ``.../MODEL/TASK/SET/STUDY.parquet``, or of the table of one of N shards,
            ``.../MODEL/TASK/SET/shards/STUDY.I-of-N.parquet``.
        card: The device that runs the job.
        threads: Number of threads of the job, which matters on a CPU.

    Raises:
        InputError: The size of the model is unknown, or no such model or study exists.
    """
    model_name, task, set_name, study_name, shards = parts(path)
    study, size = registry.study(study_name), model_sizes.size(config, config.model(model_name))
    job = job_of(config, study, task, set_name, size.layers)
    job = job._replace(queries=ceil(job.queries / shards))
    dtype, matmul = config.precision(model_name)
    return of_job(size, study, job, card, dtype, matmul, config.batch_tokens, threads)


def parts(path: PurePosixPath) -> tuple[str, str, str, str, int]:
    """Return the model, task, prompt set and study of the path of a table, and the number of shards of its prompts.

    Raises:
        InputError: The path is not that of a study's table.
    """
    match = re.fullmatch(r"(\w+)\.\d+-of-(\d+)", path.stem) if path.parent.name == "shards" else None
    folder = path.parent.parent if match else path.parent
    if len(folder.parts) < 3:
        raise InputError(f"{path} is not the path of a study's table; use a path such as MODEL/TASK/SET/STUDY.parquet")
    model, task, set_name = folder.parts[-3:]
    return (model, task, set_name, match[1], int(match[2])) if match else (model, task, set_name, path.stem, 1)


def of_job(
    size: Size,
    study: Study,
    job: Job,
    card: Card,
    dtype: str = "float32",
    matmul: str = "exact",
    batch_tokens: int = 4096,
    threads: int = 1,
) -> Prediction:
    """Predict the cost of a job with known sizes, see :func:`predict`."""
    numbers, rows = _terms(size, study, job, card, dtype, batch_tokens)
    work, cost, width = study.cost(job), study.cost, BYTES[dtype]
    seconds = card.seconds(numbers, dtype, matmul, threads)
    queries, start = _lengths(job)
    weights = size.parameters * width
    batch = rows * _sizes(size, card).row_bytes(queries, start + queries, cost.kept) * width // 4
    if cost.kept == "graph":
        batch += FLOW_ROWS[card.on_host]
    # The loss is measured one prompt at a time: the logits of all its tokens, and their log-probabilities in float32.
    observed = min((queries + start) * size.vocabulary, memory.MAX_LOGITS) * (4 + width)
    batch = max(batch, observed)
    done = operations(size, study, work)
    host = LIBRARIES + TOKEN_BYTES * size.vocabulary + weights * cost.models
    if card.on_host:
        return Prediction(seconds, host + batch, 0, done, work.prompts)
    host += CUDA_LIBRARIES
    return Prediction(seconds, host, CUDA_CONTEXT + weights + batch, done, work.prompts)


def terms(size: Size, study: Study, job: Job, card: Card, dtype: str = "float32", batch_tokens: int = 4096) -> Terms:
    """Return the numbers that determine the time of a job."""
    return _terms(size, study, job, card, dtype, batch_tokens)[0]


def _terms(size: Size, study: Study, job: Job, card: Card, dtype: str, batch_tokens: int) -> tuple[Terms, int]:
    """Return the numbers that determine the time of a job, and the number of rows of a batch."""
    work, cost, width = study.cost(job), study.cost, BYTES[dtype]
    queries, start = _lengths(job)
    rows = min(_sizes(size, card).max_rows(batch_tokens, queries, start, cost.kept), max(1, work.prompts))
    # Prompts of different seeds share no prefix, so they are in different batches. Each batch reads the weights once.
    groups = 1 if job.fresh else job.seeds
    batches = work.passes * max(groups, ceil(work.prompts / rows)) + work.steps
    # Each job measures the loss on some tokens, with and without the BOS token.
    observed = 2 * min(memory.SAMPLE * (queries + start), memory.MAX_LOGITS // size.vocabulary)
    return Terms(
        start=1,
        tokenizer=size.vocabulary,
        loaded=size.parameters * width,
        operations=operations(size, study, work).total + 2 * observed * (size.body + size.width * size.vocabulary),
        layers=batches * size.layers,
        weights=batches * size.body * width,
        activations=size.layers * (2 * size.outputs * work.tokens + 3 * size.heads * work.pairs * cost.attention)
        + 3 * observed * size.vocabulary,
        rows=work.rows,
    ), rows


def _lengths(job: Job) -> tuple[int, int]:
    """Return the number of input tokens of a row of a batch, at least one, and that of its prefix."""
    lengths = (job.query + job.demonstrations, 0) if job.fresh else (job.query, job.demonstrations)
    return max(1, round(lengths[0])), round(lengths[1])


def _sizes(size: Size, card: Card) -> memory.Sizes:
    return memory.Sizes(
        layers=size.layers,
        width=size.width,
        outputs=size.outputs,
        heads=size.heads,
        key_width=size.key_heads * size.head_width,
        head_width=size.head_width,
        vocabulary=size.vocabulary,
        bounded=card.on_host,
    )


def operations(size: Size, study: Study, work: Work) -> Operations:
    """Count the operations of the matrix products of a job."""
    # The last layer computes only its keys and values at most positions, a sixth of its parameters in GPT-2.
    share = PADDING * (size.layers - 5 / 6) / size.layers
    return Operations(
        linear=2 * size.body * share * work.tokens,
        attention=4 * size.layers * size.heads * size.head_width * work.pairs * study.cost.attention,
        vocabulary=2 * size.width * size.vocabulary * work.rows if study.cost.vocabulary else 0.0,
    )


def job_of(config: Config, study: Study, task: str, set_name: str, layers: int) -> Job:
    """Return the quantities that determine the cost of a study.

    The study itself determines the sizes of prompts that are not drawn from a corpus (``paired``).
    """
    settings = config.settings(study.name, task)
    if study.reads is not PROMPTS:
        return Job(settings, task, layers, len(config.seeds), config.queries, OTHER_TEXT, 0, True)
    protocol, source = Protocol.of(set_name), config.text_source(task)
    classes = len(config.task(task).label_words)
    known = BUILTIN_TOKENS if config.data.source == "builtin" else TOKENS
    full, query = known.get(source, (OTHER_TEXT * (classes + 1), OTHER_TEXT))
    return Job(
        settings,
        task,
        layers,
        seeds=len(config.seeds),
        queries=min(config.queries, test_size(config, task)),
        query=query,
        demonstrations=protocol.shots_per_class(classes) * (full - query),
        fresh=protocol.fresh,
        classes=classes,
    )


def test_size(config: Config, task: str) -> int:
    """Return the number of test texts of a task; for the user's own task, the number of requested queries."""
    name = config.text_source(task)
    if name not in COUNTS:
        return config.queries
    return sum((class_counts(name) if config.data.source == "builtin" else COUNTS[name])["test"])


def memory_of(card: Card) -> int:
    """Return the bytes of a card's memory; for the CPU, those of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if card.memory is None else card.memory
