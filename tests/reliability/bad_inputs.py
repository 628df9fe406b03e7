"""Invalid inputs: each must give a one-line error, without a traceback and without a new file."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from icl_lens.cli import commands

from .workspace import REPOSITORY, Done, Place, bash

PLAN = f"icl-lens plan --config {REPOSITORY}/config.yaml bad.yaml"
DRY = 'snakemake -n --configfile "$HERE/bad.yaml"'
RUN = 'snakemake table_4 --configfile "$HERE/bad.yaml"'
OWN = {"template": "Text: {text}\nClass:{label}", "label_words": {"a": " one", "b": " two"}, "train": "t.csv", "test": "s.csv"}
CORPUS = f"icl-lens corpora --task mine --definition '{json.dumps(OWN)}' --train FILE --test s.csv --out corpora/mine.parquet"
COMPRESS = "icl-lens compress --model model --task sst2 --device cpu --demos demos.jsonl --out out.cache"
CLASSIFY = "icl-lens classify --model model --device cpu"
CLAIMS = REPOSITORY / "src/icl_lens/resources/claims"
REPORT = f"--page {REPOSITORY}/src/icl_lens/resources/report --out results/report/index.html"
ICL = "icl-lens icl --model model --device cpu --prompts prompts/sst2/fresh-1shot.parquet --out icl.parquet"


@dataclass(frozen=True)
class Case:
    """One invalid input.

    Attributes:
        name: What is invalid.
        command: A command line of bash (see :func:`tests.reliability.workspace.bash`).
        said: Pattern of the error. It must match the only line of standard error of `icl-lens`, and a line of `snakemake`.
        prepare: Writes the files of the case.
        status: The allowed exit statuses. Status 0 means that the input is unusual but valid, so the command must succeed.
        may_write: Patterns of files that the command may write.
        lines: The number of lines of standard error of `icl-lens`; None for any number.
        slow: Whether the case loads torch or runs Snakemake.
        environment: Environment variables of the command.
    """

    name: str
    command: str
    said: str
    prepare: Callable[[Place], object] = field(default=lambda place: None)
    status: tuple[int, ...] = (1, 2)
    may_write: str = r"(?!)"
    lines: int | None = 1
    slow: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether the command is one command of icl-lens, without a shell's features, plugins, torch or special files."""
        shell = set(self.command) & set("<>|;&") or "ulimit" in self.command or self.environment
        return not shell and not self.slow and not re.search("plugin|pipe|device", self.name + self.command)

    @property
    def one_sentence(self) -> bool:
        """Whether standard error must have exactly one line."""
        return self.lines == 1 and any(self.status) and bool(self.said) and "snakemake" not in self.command


@dataclass(frozen=True)
class Outcome:
    """Result of a case.

    Attributes:
        answer: The last line that the command printed.
        faults: Differences from the expected behaviour; empty if the case passed.
    """

    answer: str
    faults: tuple[str, ...]


def run(case: Case, place: Place, clone: Path) -> Outcome:
    """Run a case and compare its status, message and files with the expected ones."""
    case.prepare(place)
    before = files_of(place.folder)
    done = bash(
        case.command, place.folder, clone, **{key: value.format(here=place.folder) for key, value in case.environment.items()}
    )
    return judge(case, done, before, files_of(place.folder))


def run_here(case: Case, place: Place, capture: Callable[[], tuple[str, str]]) -> Outcome:
    """Run a case whose command is only one command of icl-lens in this process, which is faster.

    Args:
        case: The case.
        place: Its folder, which must be the working folder.
        capture: Returns what was printed to standard output and standard error.
    """
    case.prepare(place)
    before = files_of(place.folder)
    try:
        status = commands.main(shlex.split(case.command)[1:])
        printed = ""
    except Exception:
        status, printed = 1, traceback.format_exc()
    output, errors = capture()
    return judge(case, Done(status, output, errors + printed), before, files_of(place.folder))


def judge(case: Case, done: Done, before: dict[str, tuple], after: dict[str, tuple]) -> Outcome:
    """Return the outcome of a finished case.

    Args:
        case: The case.
        done: The result of its command.
        before: The files before the command, see :func:`files_of`.
        after: The files after it.
    """
    both = (done.output + done.errors).strip().splitlines()
    errors = done.errors.strip().splitlines()
    searched = errors if case.one_sentence else both
    matching = [line for line in searched if re.search(case.said, line)]
    faults = []
    if done.status not in case.status:
        faults.append("the command did not end in time" if done.status is None else f"exit status {done.status}")
    if "Traceback" in done.output + done.errors:
        faults.append("traceback")
    if not matching and case.said:
        faults.append("unexpected message")
    if case.one_sentence and len(errors) != 1:
        faults.append(f"{len(errors)} lines on standard error")
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    unexpected = sorted(name for name in changed if not re.fullmatch(case.may_write, name))
    if unexpected:
        faults.append("wrote or changed " + ", ".join(unexpected[:3]))
    answer = matching[-1] if matching else "\n".join(searched[-8:])
    return Outcome(answer, tuple(faults))


def files_of(folder: Path) -> dict[str, tuple]:
    """Return the size and modification time of each file below a folder, except logs and benchmarks."""
    found = {}
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("logs", "benchmarks")]
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


def config(text: object, said: str, name: str, command: str = PLAN, **options) -> Case:
    """Return the case of a config file ``bad.yaml``."""
    return Case(name, command, said, lambda place: place.write("bad.yaml", text), **options)


def split(content: str | bytes, said: str, name: str, file: str = "t.csv", **options) -> Case:
    """Return the case of a training file of the user's own task."""

    def prepare(place: Place) -> None:
        place.write(file, content)
        place.write("s.csv", "text,label\nfine,a\npoor,b\n")

    return Case(name, CORPUS.replace("FILE", file), said, prepare, **options)


def broken_model(change: Callable[[Place], object], said: str, name: str, command: str = COMPRESS, **options) -> Case:
    """Return the case of a copy of the embedded model that is changed."""

    def prepare(place: Place) -> None:
        place.model()
        place.demos()
        change(place)

    return Case(name, command, said, prepare, slow=True, **options)


def tools(change: Callable[[Place], object], command: str, said: str, name: str, **options) -> Case:
    """Return the case of a changed input of a tool."""

    def prepare(place: Place) -> None:
        place.tools()
        change(place)

    return Case(name, command, said, prepare, slow=True, **options)


def plugin(text: str, said: str, name: str) -> Case:
    """Return the case of a study outside the package."""

    def prepare(place: Place) -> None:
        place.write("mood/study.py", text)
        place.write("mood/compute.py", "")

    return Case(name, "icl-lens audit --plugin mood", said, prepare)


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Place], None]:
    """Return a function that changes the weights of the model."""

    def edit(place: Place) -> None:
        path = place.folder / "model/model.safetensors"
        loaded = {name: value.copy() for name, value in load_file(path).items()}
        change(loaded)
        save_file(loaded, path, metadata={"format": "pt"})

    return edit


def first_matrix(loaded: dict[str, np.ndarray]) -> str:
    """Return the name of a weight matrix of a layer."""
    return next(name for name in sorted(loaded) if "layers.0" in name and loaded[name].ndim == 2)


def drop(loaded: dict[str, np.ndarray]) -> None:
    """Remove a weight matrix."""
    del loaded[first_matrix(loaded)]


def cut_columns(loaded: dict[str, np.ndarray]) -> None:
    """Remove a column of a weight matrix."""
    name = first_matrix(loaded)
    loaded[name] = np.ascontiguousarray(loaded[name][:, :-1])


def set_weight(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Return a function that sets one weight."""

    def change(loaded: dict[str, np.ndarray]) -> None:
        loaded[first_matrix(loaded)][0, 0] = value

    return change


def cut(name: str, size: int) -> Callable[[Place], object]:
    """Return a function that truncates a file."""
    return lambda place: os.truncate(place.folder / name, size)


def record_that_leaves(place: Place) -> None:
    """Write a record of a figure that names a file outside the results folder as its output."""
    place.write("thesis.tex", "text of the user")
    place.write(
        "results/figures/figure_3.json", {"inputs": {}, "outputs": {"../thesis.tex": "0" * 64, "corpora/../../thesis.tex": "0"}}
    )


CONFIG = (
    config("queries: 3\nqueries: 5\n", "duplicate key 'queries'|queries.*twice", "a duplicate key in a config"),
    config(b"\xff\xfe" + "queries: 3\n".encode("utf-16-le"), "bad.yaml", "a config in UTF-16"),
    config(b"\x89PNG\r\n\x1a\n\0\0\0", "bad.yaml", "an image as a config"),
    config("seeds: " + "[" * 3000 + "]" * 3000, "nested", "a config nested 3,000 levels deep"),
    config({"queries": True}, "'queries' must be a valid integer, got True", "a boolean as a number"),
    config("queries: .nan\n", "'queries' must be", "NaN as the number of queries"),
    config("batch_tokens: 1.5\n", "'batch_tokens' must be a valid integer", "a fractional batch size"),
    config("seeds: [1, [2]]\n", r"seeds\[1\]", "a list of seeds inside the seeds"),
    config("models: {name: a, path: b}\n", "'models' must be", "one model that is not in a list"),
    config("tasks: sst2\n", "'tasks' must be", "one task that is not in a list"),
    config("1: x\n", "a key must be text|unknown key '?1'?", "a number as a key"),
    config("results: ''\n", "'?results'? must", "an empty results folder"),
    config({"results": "a\0b"}, "results", "a NUL byte in the results folder"),
    config({"results": "runs/{date}"}, "results", "braces in the results folder", command=DRY, slow=True),
    config(
        {"results": "config.yaml"},
        "config.yaml is (a file|not a folder)",
        "a file as the results folder",
        command=RUN,
        slow=True,
    ),
    config(
        {"results": "src"},
        "src contains files of this project",
        "the folder of the code as the results folder",
        command=DRY,
        slow=True,
    ),
    config({"results": "one", "downloads": "one"}, "downloads.*results", "one folder for results and downloads"),
    config(
        {"models": [{"name": "x", "path": "models/{a}"}]}, "models/", "braces in the folder of a model", command=DRY, slow=True
    ),
    config(
        {"models": [{"name": "x", "path": "config.yaml"}]},
        "config.yaml",
        "a file as the folder of a model",
        command=DRY,
        slow=True,
    ),
    config({"tasks": ["SST2"]}, "tasks: 'SST2' is unknown; did you mean 'sst2'", "a task in capital letters"),
    config({"studies": {"icl": {"x": 1}}}, "studies.icl|unknown key", "settings of a study that has none"),
    config({"plugins": ["/dev/null"]}, "/dev/null", "a device as a plugin folder"),
    config({"device": "cuda:7"}, "'device' must be", "a device with a number"),
    Case("a string as a seed on the command line", "snakemake -n --config seeds=[a]", r"seeds\[0\].*must be", slow=True),
    Case("an unknown target", "snakemake -n figure_33", "figure_33", slow=True),
)

DATA = (
    split("text,label\nfine\0,a\n", "t.csv.*line 2", "a NUL byte in a CSV file"),
    split("text,text,label\na,b,a\n", "t.csv.*(duplicate|more than one|2 columns)", "two columns with the same name"),
    split(
        'text,label\n"' + "long " * 60_000 + '",a\nb,b\n',
        "",
        "a field of 300,000 characters",
        status=(0,),
        may_write="corpora/.*",
    ),
    split("text,label\nfine,a\n".encode("utf-16"), "t.csv.*(utf-8|UTF-8)", "a CSV file in UTF-16"),
    split(b"\x1f\x8b\x08\0" + bytes(range(256)), "t.csv.*(utf-8|UTF-8)", "a compressed file with the extension .csv"),
    split("text,label\rfine,a\rpoor,b\r", "", "line ends of CR only", status=(0,), may_write="corpora/.*"),
    Case(
        "training texts of one class",
        CORPUS.replace("FILE", "t.csv")
        + f" && icl-lens prompts --task mine --definition '{json.dumps(OWN)}' --corpus corpora/mine.parquet --set fresh-1shot "
        "--seeds 1 --queries 1 --out prompts.parquet",
        r"1 demonstrations? per class (is|are) required, but the training split has only 0 texts of class 1",
        lambda p: (p.write("t.csv", "text,label\nfine,a\ngood,a\n"), p.write("s.csv", "text,label\nx,a\n")),
        may_write="corpora/.*",
    ),
    split("text;label\nfine;a\n", "t.csv.*(column|header)", "semicolons instead of commas"),
    split('{"text": ["a"], "label": "a"}\n', "t.jsonl, line 1", "a list as a text", file="t.jsonl"),
    split('{"text": "a", "label": NaN}\n', "t.jsonl, line 1", "NaN as a label", file="t.jsonl"),
    split(
        '{"text": "a", "text": "b", "label": "a"}\n',
        "t.jsonl, line 1.*(duplicate|twice)",
        "a duplicate key in a JSON object",
        file="t.jsonl",
    ),
    split("[" * 5000 + "\n", "t.jsonl, line 1", "a JSON line nested 5,000 levels deep", file="t.jsonl"),
    split(b"PAR1" + b"\0" * 50 + b"PAR1", "t.parquet", "a Parquet file without content", file="t.parquet"),
    split("text,label\n\u200b \u2060,a\n", "t.csv.*line 2.*(empty|visible)", "a text of invisible characters"),
    split("", "t.xlsx", "a spreadsheet", file="t.xlsx"),
    Case(
        "a text column of numbers in Parquet",
        CORPUS.replace("FILE", "t.parquet"),
        "t.parquet.*(text|string)",
        lambda p: (
            p.write("s.csv", "text,label\nx,a\n"),
            pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), p.folder / "t.parquet"),
        ),
    ),
    Case(
        "a symbolic link to itself",
        CORPUS.replace("FILE", "t.csv"),
        "t.csv cannot be read|t.csv",
        lambda p: (p.write("s.csv", "text,label\nx,a\n"), os.symlink("t.csv", p.folder / "t.csv")),
    ),
    Case(
        "a named pipe as a data file",
        CORPUS.replace("FILE", "t.csv"),
        "t.csv",
        lambda p: (p.write("s.csv", "text,label\nx,a\n"), os.mkfifo(p.folder / "t.csv")),
    ),
    Case(
        "a device as a data file",
        CORPUS.replace("FILE", "t.csv"),
        "t.csv",
        lambda p: (p.write("s.csv", "text,label\nx,a\n"), os.symlink("/dev/zero", p.folder / "t.csv")),
    ),
    Case(
        "a folder as a data file",
        CORPUS.replace("FILE", "t.csv"),
        "t.csv cannot be read",
        lambda p: (p.write("s.csv", "text,label\nx,a\n"), (p.folder / "t.csv").mkdir()),
    ),
    Case(
        "prompts written by hand whose spans leave the text",
        ICL,
        "prompt 0: characters .* not the label word",
        lambda p: (p.tools(), shift_spans(p.folder / "prompts/sst2/fresh-1shot.parquet")),
        slow=True,
    ),
)


def shift_spans(path: Path) -> None:
    """Move the spans of the label words out of the text, in a table without checksums."""
    table = pq.read_table(path).to_pandas()
    table["label_spans"] = table["label_spans"].map(
        lambda spans: [[int(start) + 10_000, int(end) + 10_000] for start, end in spans]
    )
    table.to_parquet(path)


def two_shards(folder: Path) -> None:
    """Split the weights into two files with an index, and delete the second file."""
    loaded = load_file(folder / "model.safetensors")
    names = sorted(loaded)
    half = names[: len(names) // 2]
    save_file({name: loaded[name] for name in half}, folder / "model-1.safetensors", metadata={"format": "pt"})
    shards = {name: "model-1.safetensors" if name in half else "model-2.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}), encoding="utf-8")
    (folder / "model.safetensors").unlink()


MODELS = (
    broken_model(lambda p: p.write("model/config.json", "[]"), r"config\.json", "a list as config.json"),
    broken_model(lambda p: p.write("model/config.json", ""), r"config\.json", "an empty config.json"),
    broken_model(lambda p: p.edit_json("model/config.json", model_type="nonesuch"), "nonesuch", "an unknown model type"),
    broken_model(lambda p: p.edit_json("model/config.json", model_type="t5"), "t5|decoder", "an encoder-decoder model"),
    broken_model(
        lambda p: p.edit_json("model/config.json", num_hidden_layers=-1), "layers", "a negative number of layers", lines=None
    ),
    broken_model(
        lambda p: p.edit_json("model/config.json", num_hidden_layers=9), "missing|layer", "more layers than the weights have"
    ),
    broken_model(
        lambda p: p.edit_json("model/config.json", num_hidden_layers=2),
        "52 weights are not used",
        "fewer layers than the weights have (a warning)",
        status=(0,),
        may_write="out.cache",
    ),
    broken_model(lambda p: p.edit_json("model/config.json", vocab_size=7), "vocab|shape|size", "a vocabulary of 7 tokens"),
    broken_model(
        lambda p: p.edit_json("model/config.json", hidden_size="wide"), "hidden_size|wide", "a string as the hidden size"
    ),
    broken_model(lambda p: p.edit_json("model/config.json", num_attention_heads=0), "config.json", "no attention heads"),
    broken_model(
        lambda p: p.edit_json("model/config.json", max_position_embeddings=4),
        "tokens|positions|context",
        "a context of 4 tokens",
    ),
    broken_model(cut("model/model.safetensors", 0), r"model\.safetensors", "empty weights"),
    broken_model(cut("model/model.safetensors", 100_000), r"model\.safetensors", "truncated weights"),
    broken_model(
        lambda p: p.write("model/model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        r"model\.safetensors",
        "a safetensors header of 2^60 bytes",
    ),
    broken_model(tensors(drop), "missing|lacks", "weights without one matrix"),
    broken_model(tensors(cut_columns), "shape|size", "a matrix of another shape"),
    broken_model(tensors(set_weight(float("nan"))), "(?i)nan|non-finite|finite", "a NaN in the weights"),
    broken_model(tensors(set_weight(float("inf"))), "(?i)inf|non-finite|finite", "an infinity in the weights"),
    broken_model(lambda p: p.write("model/tokenizer.json", "{}"), "tokenizer", "an empty tokenizer"),
    broken_model(cut("model/tokenizer.json", 5000), "tokenizer", "a truncated tokenizer"),
    broken_model(lambda p: (p.folder / "model/tokenizer.json").unlink(), "tokenizer", "no tokenizer"),
    broken_model(
        lambda p: two_shards(p.folder / "model"), r"model-2\.safetensors", "the second of two files of weights missing"
    ),
    broken_model(
        lambda p: ((p.folder / "model/config.json").unlink(), (p.folder / "model/config.json").mkdir()),
        "config",
        "a folder named config.json",
    ),
)

TOOLS = (
    tools(
        lambda p: None,
        COMPRESS.replace("out.cache", "demos.jsonl"),
        "--out demos.jsonl",
        "an output that is also the input of compress",
    ),
    tools(
        lambda p: None,
        COMPRESS.replace("out.cache", "model/model.safetensors"),
        "--out model/model.safetensors",
        "an output that is the model's weights",
    ),
    tools(
        lambda p: None,
        ICL.replace("icl.parquet", "prompts/sst2/fresh-1shot.parquet"),
        "--out",
        "a study that would overwrite its prompts",
    ),
    tools(
        lambda p: os.mkfifo(p.folder / "pipe"),
        COMPRESS.replace("out.cache", "pipe"),
        "pipe is not a regular file",
        "a named pipe as the output",
    ),
    tools(
        lambda p: None,
        CLASSIFY + " --cache components.safetensors texts.txt",
        "components.safetensors",
        "component weights given as a cache",
    ),
    tools(
        lambda p: None, CLASSIFY + " --components demos.cache texts.txt", "demos.cache", "a cache given as component weights"
    ),
    tools(cut("demos.cache", 2000), CLASSIFY + " --cache demos.cache texts.txt", "demos.cache", "a truncated cache"),
    tools(lambda p: None, CLASSIFY + " --cache model texts.txt", "model", "a folder as a cache"),
    tools(lambda p: None, CLASSIFY + " --cache demos.cache model", "model", "a folder of texts"),
    tools(
        lambda p: p.write("texts.txt", "x " * 100_000),
        CLASSIFY + " --cache demos.cache texts.txt",
        "texts.txt.*line 1|line 1|text 1",
        "a text of 100,000 words",
    ),
    tools(
        lambda p: None,
        CLASSIFY + " --cache demos.cache texts.txt > /dev/full",
        "[Nn]o space left|standard output",
        "predictions printed to a full device",
    ),
    tools(
        lambda p: None, CLASSIFY + " --cache demos.cache texts.txt >&-", "standard output|Bad file", "a closed standard output"
    ),
    tools(lambda p: None, CLASSIFY + " --cache demos.cache - <&-", "contains no texts", "a closed standard input"),
    tools(
        lambda p: None,
        CLASSIFY + " --cache demos.cache --format jsonl texts.txt",
        "line 1: not valid JSON",
        "plain lines given as JSON lines",
    ),
    tools(
        lambda p: None,
        CLASSIFY + " --cache demos.cache --device cuda texts.txt",
        "cuda.*not available",
        "a device that is not available",
    ),
    tools(
        lambda p: None,
        "icl-lens reweight-components --model model --task sst2 --train demos.jsonl --out w --settings '{epochs: -1}'",
        "epochs",
        "a negative number of epochs",
    ),
    tools(
        lambda p: None,
        "icl-lens reweight-components --model model --task sst2 --train demos.jsonl --out w --demonstrations 6 --device cpu",
        "no labelled text is left",
        "all texts used as demonstrations",
    ),
    Case(
        "a folder of photos as the results folder of the audit",
        "icl-lens audit here",
        "here contains no artifacts",
        lambda p: p.write("here/photo.txt", ""),
    ),
    Case(
        "a file as the results folder of the audit",
        "icl-lens audit a.txt",
        "a.txt is not a folder",
        lambda p: p.write("a.txt", ""),
    ),
    Case(
        "a record that names files outside the results folder",
        "icl-lens audit --repair results",
        "figure_3.json|no artifacts",
        record_that_leaves,
        may_write="results/figures/figure_3.json",
    ),
    Case(
        "a record that is a JSON list",
        "icl-lens audit results",
        "figure_3.json: not a valid record",
        lambda p: p.write("results/figures/figure_3.json", "[1]"),
        lines=None,
    ),
    Case(
        "a results folder whose files have names that are not UTF-8",
        "icl-lens audit results",
        "caf.*unexpected file",
        lambda p: (p.write("results/figures/figure_3.json", "[1]"), os.mknod(os.fsencode(p.folder) + b"/results/caf\xe9.txt")),
        lines=None,
        environment={"LANG": "C.UTF-8"},
    ),
    Case(
        "an empty results folder to publish",
        f"icl-lens publish --claims {CLAIMS} --page {REPOSITORY}/src/icl_lens/resources/publish empty docs",
        "empty",
        lambda p: (p.folder / "empty").mkdir(),
        slow=True,
    ),
    Case(
        "random bytes piped into plan",
        f"head -c 4000 /dev/urandom | icl-lens plan --config {REPOSITORY}/config.yaml",
        "standard input|summary",
    ),
    Case("plan without its input", f"icl-lens plan --config {REPOSITORY}/config.yaml < /dev/null", "standard input|summary"),
    Case(
        "a GGUF file that declares 2^62 tensors",
        "icl-lens convert-gguf --gguf big.gguf --out out",
        "big.gguf",
        lambda p: p.write("big.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62)),
    ),
    Case(
        "a folder with the name of a GGUF file",
        "icl-lens convert-gguf --gguf a.gguf --out out",
        "a.gguf",
        lambda p: (p.folder / "a.gguf").mkdir(),
    ),
    Case(
        "a file URL as the address of the Hub",
        "icl-lens fetch-model --hub a/b --out d/m/fetched.json",
        "HF_ENDPOINT",
        may_write=r"d/m/\.lock",
        environment={"HF_ENDPOINT": "file:///etc", "HF_HUB_OFFLINE": "0"},
    ),
    Case(
        "an image as a claims file",
        f"icl-lens report --results results --items figure_3 --claims c.yaml {REPORT}",
        "c.yaml",
        lambda p: p.write("c.yaml", b"\x89PNG\xff\0"),
        slow=True,
    ),
    Case(
        "an unknown figure in a report",
        f"icl-lens report --results results --items figure_99 --claims {CLAIMS}/anchors.yaml {REPORT}",
        "figure_99",
        slow=True,
    ),
    plugin("raise SystemExit(0)\n", "mood", "a plugin that exits"),
    plugin("def f(): f()\nf()\n", r"mood.*RecursionError|RecursionError.*mood", "a plugin with infinite recursion"),
    plugin("import no_such_library\n", "mood.*no_such_library", "a plugin that needs a missing library"),
    plugin("STUDY = \u201cquoted\u201d\n", "mood.*line 1", "a plugin with typographic quotes"),
)

ENVIRONMENT = (
    Case(
        "a folder for temporary files that does not exist",
        DRY,
        "TMPDIR|temporary|dry-run",
        lambda p: p.write("bad.yaml", {"results": "results"}),
        status=(0, 1),
        slow=True,
        environment={"TMPDIR": "/nonexistent"},
    ),
    tools(
        lambda p: None, CLASSIFY + " --cache demos.cache texts.txt", '"label"', "no HOME", status=(0,), environment={"HOME": ""}
    ),
    tools(
        lambda p: p.write("texts.txt", "une œuvre émouvante — 感動\n"),
        CLASSIFY + " --cache demos.cache texts.txt",
        "感動",
        "non-ASCII text and LANG=C",
        status=(0,),
        environment={"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ),
    Case("the config printed to a full device", "icl-lens config > /dev/full", "[Nn]o space left|standard output"),
    Case(
        "the config printed to a closed pipe", "icl-lens config --schema | head -c 10; exit ${PIPESTATUS[0]}", "", status=(0, 1)
    ),
    Case("a closed standard error", "icl-lens audit none 2>&-; exit $?", "", status=(1,)),
    Case(
        "a working folder that was deleted",
        'mkdir gone; cd gone; rmdir "$HERE/gone"; icl-lens audit results',
        "folder|directory",
    ),
    Case("only 12 open files allowed", "ulimit -n 12; icl-lens audit results", "results is not a folder|open files"),
    tools(
        lambda p: None,
        f"ulimit -f 1; {COMPRESS}",
        "out.cache.*(larger than the file system)",
        "a limit of 1 KB on the size of files",
    ),
    Case("warnings turned into errors", "icl-lens audit none", "none is not a folder", environment={"PYTHONWARNINGS": "error"}),
    Case(
        "a terminal of one column", "icl-lens audit none", "none is not a folder", environment={"COLUMNS": "1", "TERM": "dumb"}
    ),
    Case(
        "a plugin folder in the environment that does not exist",
        "icl-lens audit none",
        "nowhere",
        environment={"ICL_LENS_PLUGINS": "/nowhere"},
    ),
)

CASES = {"config": CONFIG, "data": DATA, "models": MODELS, "tools": TOOLS, "environment": ENVIRONMENT}
