"""The report: one HTML page with the verdict on each claim, all figures and tables, and the files that each was made from.

The page is self-contained: pictures are embedded, and reading it requires neither a network connection nor other files. Its
links point to the other files of the results folder. All inserted text is escaped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from icl_lens.artifacts import code, files, hashes, notebooks, parquet, provenance
from icl_lens.errors import InputError
from icl_lens.report import claims, figures, lineage, pictures, replicates, scorecard, walk
from icl_lens.report import verdicts as judging
from icl_lens.report.claims import Paper, Replicates
from icl_lens.report.verdicts import OUTCOMES, UNTESTABLE, Verdict
from icl_lens.results.nulls import SCORECARD
from icl_lens.studies import registry

# Name of the record of an incomplete page, in the page's folder. The record of a complete page is index.json.
INCOMPLETE = "incomplete.json"

# Escape sequences that colour text in a terminal.
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")

# Corpus sources for which our numbers can be compared with the paper's.
_ORIGINAL = ("files", "hub")


@dataclass(frozen=True)
class Step:
    """A file between the corpus and an item in the chain of inputs.

    Attributes:
        name: Path of the file relative to the results folder.
        hash: SHA-256 of the file's content, as recorded by the file that was made from it.
        level: Number of steps between the file and the item.
    """

    name: str
    hash: str
    level: int


@dataclass
class Shown:
    """A figure or table as the page shows it.

    Attributes:
        name: Name of the item as a Snakemake target.
        kind: ``figure`` or ``table``.
        heading: Heading of the page under which the item appears.
        caption: Caption of the item.
        run: One sentence that describes the run; empty if the item needs no model.
        artifacts: Tables from which the item was drawn, relative to the results folder.
        chain: All files from which the item was made.
        links: ``href`` and ``text`` of each file of the item.
        csv: The plotted or tabulated data.
        picture: For a figure, its SVG as a data URI.
        table: For a table, its head and rows.
        notes: Notes on the figure or table, one paragraph each.
        alt: For a figure, its alternative text.
        about: Metadata of the tables in ``artifacts``.
        replicates: The estimates behind the numbers of ``csv``, see :func:`read_replicates`.
    """

    name: str
    kind: str
    heading: str
    caption: str
    run: str
    artifacts: list[str]
    chain: list[Step]
    links: list[dict[str, str]]
    csv: pd.DataFrame
    picture: str = ""
    table: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    alt: str = ""
    about: list[dict[str, Any]] = field(default_factory=list)
    replicates: Replicates = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the item in its paper: ``kr_figure_2`` becomes ``Figure 2``."""
        return re.sub(r"^(kr|cr|rc)_", "", self.name).replace("_", " ").capitalize()

    @property
    def notebook(self) -> str:
        """Link to the notebook that drew the item."""
        return f"../notebooks/{self.name}.ipynb"


def write(
    results: Path,
    items: Sequence[str],
    claims_files: Sequence[Path],
    page: Path,
    out: Path,
    walks: Sequence[Path] = (),
    missing: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
    nulls: Mapping[str, Path] | None = None,
) -> None:
    """Write the report of a results folder: the page, and the scorecard as CSV next to it.

    An incomplete page lists the missing items at the top. Its record is :data:`INCOMPLETE` instead of ``index.json``, so that
    Snakemake rewrites the page in the next run and ``icl-lens audit`` reports the page.

    Args:
        results: The results folder.
        items: The figures and tables to show. Their files must exist in the results folder.
        claims_files: Claims files, one per paper.
        page: The folder with the page's template, style sheet and script.
        out: Path of the page.
        walks: Folders of studies with prompts that the reader can explore, see :mod:`icl_lens.report.walk`.
        missing: Figures and tables that a failed run did not make, each with the reason as one sentence (see
            :func:`failure`).
        left_out: One sentence for each reason why figures and tables do not show a configured task.
        nulls: Folder name of a null run -> its scorecard, see :func:`icl_lens.results.nulls.scorecards`.

    Raises:
        InputError: If a file of an item is missing or corrupted, or if a claims file is invalid.
    """
    if unknown := next((name for name in (*items, *(missing or {})) if name not in registry.items()), None):
        raise InputError(f"{unknown!r} is not a figure or table; known: {', '.join(registry.items())}")
    missing = {name: missing[name] for name in sorted(missing or {}, key=_sort_key)}
    papers = [claims.load(path) for path in claims_files]
    read_metadata = cache(parquet.read_metadata)  # most items read the same prompts and texts
    shown = {name: _shown(results, name, read_metadata) for name in sorted(items, key=_sort_key)}
    null_runs = [scorecard.read_null(name, path) for name, path in (nulls or {}).items()]
    ids = Counter(claim.id for paper in papers for claim in paper.claims)
    if duplicate := next((name for name, count in ids.items() if count > 1), None):
        raise InputError(f"duplicate claim id {duplicate} in two claims files; rename one of them")
    verdicts_by_paper = {paper.name: list(verdicts_of(paper, shown, missing)) for paper in papers}
    verdicts = [verdict for found in verdicts_by_paper.values() for verdict in found]
    for name, item in shown.items():
        item.alt = _alt_text(item, [v for v in verdicts if v.claim.item == name])
    about = [metadata for item in shown.values() for metadata in item.about]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(page), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    pairs = lineage.edges({name: [(step.level, step.name) for step in item.chain] for name, item in shown.items()})
    first = {verdict.claim.id: verdict for verdict in reversed(verdicts)}
    if walks:
        walk_context = {
            "one": False,
            "walks": walk.packed(walk.read(walks)),
            "charts": walk.charts(),
            "edges": walk.EDGES,
            "library": Markup(walk.library()),
            "walk_script": Markup((page / "walk.js").read_text(encoding="utf-8")),
        }
    else:
        walk_context = {"walks": ""}
    fields = ("claim", "model", "outcome", "original", "measurement", "prompts", "reason")
    rows = [
        {
            **{field_name: getattr(v, field_name) for field_name in fields},
            "further": judging.further_sets_text(v),
            "paper": name,
            "rule": claims.rule_in_words(v.claim),
            "item": shown.get(v.claim.item),
            "first": first[v.claim.id] is v,
        }
        for name, found in verdicts_by_paper.items()
        for v in found
    ]
    html = environment.get_template("index.html.jinja").render(
        style=Markup((page / "report.css").read_text(encoding="utf-8")),
        script=Markup((page / "report.js").read_text(encoding="utf-8")),
        papers=papers,
        missing=missing,
        left_out=left_out,
        n_items=len(shown) + len(missing),
        models=list({m["model"]["name"]: m["model"] for m in about if "model" in m}.values()),
        weights=figures.weights,
        notes=figures.notes([m for m in about if "model" in m]),
        outcomes=[outcome for outcome in OUTCOMES if any(v.outcome == outcome for v in verdicts)],
        headline=scorecard.headline(verdicts_by_paper, null_runs),
        counts=scorecard.counts(verdicts_by_paper, null_runs),
        chance=scorecard.chance_sentence(verdicts),
        null_note=_with_code(scorecard.null_sentence(null_runs)),
        judged=[row for row in rows if row["outcome"] != UNTESTABLE],
        untestable=[row for row in rows if row["outcome"] == UNTESTABLE],
        items=[(heading, list(group)) for heading, group in groupby(shown.values(), lambda item: item.heading)],
        graph=pictures.data_uri(lineage.svg(pairs, list(shown))),
        graph_in_words=lineage.in_words(pairs, list(shown)),
        libraries=about[0]["libraries"] if about else {},
        **walk_context,
    )
    complete, incomplete = out.with_suffix(".json"), out.with_name(INCOMPLETE)
    (complete if missing else incomplete).unlink(missing_ok=True)
    csv = out.with_name(SCORECARD)
    with files.whole_file(csv) as temporary:
        scorecard.table(papers, verdicts_by_paper).to_csv(temporary, index=False, lineterminator="\n")
    with files.whole_file(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    read = [results / f"{item.kind}s" / f"{name}.json" for name, item in shown.items()]
    walk_studies = [study.name for study in registry.studies().values() if study.walked]
    read += [folder / f"{kind}.parquet" for folder in walks for kind in walk_studies]
    notebooks.write_record(
        incomplete if missing else complete,
        inputs=read,
        outputs=[out, csv],
        code=code.code_hash("icl_lens.report.page"),
        libraries=provenance.library_versions(),
        page={
            **{path.name: hashes.file_hash(path) for path in sorted((*claims_files, *page.iterdir())) if path.is_file()},
            **{f"null/{name}": hashes.file_hash(path) for name, path in (nulls or {}).items()},
        },
        **({"missing": missing} if missing else {}),
    )


def failure(log: Path) -> str:
    """Return the error sentence of a failed job: the last line of its log, without the name of the command or the error.

    The sentence of a study begins with the study, its model and its task.

    Args:
        log: Log file of the job. It is empty or missing if the job failed without a message, for example if the process was
            killed.
    """
    try:
        lines = _TERMINAL.sub("", log.read_text(encoding="utf-8", errors="replace")).splitlines()
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    sentence = re.sub(r"^(icl-lens [a-z-]+|InputError): ", "", last) or "the job failed without an error message"
    stage, model, task = ("", "", "", "", *log.parts)[-5:-2]
    return f"{log.stem} of {model} on {task}: {sentence}" if stage == "studies" else sentence


def verdicts_of(
    paper: Paper, shown: Mapping[str, Any], missing: Mapping[str, str] | None = None, by_seed: Mapping[str, Any] | None = None
) -> Iterator[Verdict]:
    """Judge a paper's claims on the items shown and yield one verdict per claim and model.

    Args:
        paper: The paper.
        shown: Items by name, each with its ``csv``, ``about`` and ``replicates``.
        missing: See :func:`write`.
        by_seed: For each claim with a spread over seeds, by its id: the item's CSV with the values of each seed.
    """
    for claim in paper.claims:
        item = shown.get(claim.item)
        hub_names = {name.lower() for name in ([claim.model] if claim.model else paper.models)}
        yield from judging.judge(
            claim,
            None if item is None else item.csv,
            [] if item is None else _original_models(item.about, hub_names),
            (missing or {}).get(claim.item, ""),
            None if item is None else item.replicates,
            (by_seed or {}).get(claim.id),
        )


def read_replicates(stem: Path) -> Replicates:
    """Return the estimates behind the numbers of an item's CSV; empty if the item has none.

    Args:
        stem: Common path of the item's files without extension.

    Raises:
        InputError: The file is corrupted.
    """
    path = stem.with_name(f"{stem.name}{replicates.ENDING}")
    return replicates.read(path) if path.is_file() else {}


def _original_models(about: list[dict[str, Any]], hub_names: set[str]) -> list[str]:
    """Return the names of the models that have a wanted name on the Hub and were run only on the original texts."""
    originals: dict[str, list[bool]] = {}
    for metadata in about:
        if "model" in metadata:
            model = metadata["model"]
            original = metadata["corpus"]["source"] in _ORIGINAL and model.get("hub", "").lower() in hub_names
            # The papers use no quantised or random weights, no adapters, and correct labels.
            original = (
                original
                and not {"gguf", "quantisation", "weights", "adapter"} & set(model)
                and "shuffled_labels" not in metadata["corpus"]
            )
            originals.setdefault(metadata["model"]["name"], []).append(original)
    return [name for name, original in originals.items() if all(original)]


def _shown(results: Path, name: str, read_metadata: Callable[[Path], dict[str, Any]]) -> Shown:
    item = registry.items()[name]
    folder = results / f"{item.kind}s"
    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        inputs, outputs = dict(record["inputs"]), dict(record["outputs"])
        csv = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}/{name} is missing or corrupted; run `snakemake {name} --cores all` with the same config"
        ) from error
    # Only tables are read: a table's metadata also describes the weights that its study trained.
    about = [read_metadata(results / path) for path in inputs if path.endswith(".parquet")]
    result = Shown(
        name=name,
        kind=item.kind,
        heading=registry.groups()[item.group].heading,
        caption=_plain(item.title) + ".",
        run=_run_sentence(about),
        artifacts=list(inputs),
        chain=list(_chain(results, inputs, read_metadata)),
        links=[
            *(
                {"href": f"../{path}", "text": "notebook" if path.endswith(".ipynb") else path.rpartition(".")[2].upper()}
                for path in outputs
            ),
        ],
        csv=csv,
        about=about,
        replicates=read_replicates(folder / name),
    )
    if item.kind == "figure":
        result.picture = pictures.data_uri((folder / f"{name}.svg").read_text(encoding="utf-8"))
        result.notes = (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")
    else:
        text = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
        result.table = {"head": list(text.columns), "rows": [[_rounded(c) for c in row] for row in text.to_numpy()]}
        result.notes = _notes((folder / f"{name}.md").read_text(encoding="utf-8"))
    return result


def _sort_key(name: str) -> tuple[int, str, int, str]:
    """Return the sort key of an item: by group, then figures before tables, then by number, with unnumbered items last."""
    item = registry.items()[name]
    order, kind = list(registry.groups()).index(item.group), item.kind
    rest = name.rpartition("_")[2]
    return (order, kind, int(rest), "") if rest.isdecimal() else (order, kind, 1000, name)


def _notes(markdown: str) -> list[str]:
    """Return the paragraphs below a Markdown table as plain text."""
    paragraphs = (" ".join(part.split()) for part in markdown.split("\n\n"))
    return [re.sub(r"\\([^A-Za-z0-9\s])", r"\1", part) for part in paragraphs if part and not part.startswith("|")]


def _rounded(cell: str) -> str:
    """Round a decimal number to four significant digits; the linked CSV has all digits."""
    return f"{float(cell):.4g}" if re.fullmatch(r"-?\d+\.\d{4,}(e-?\d+)?", cell) else cell


def _with_code(text: str) -> Markup:
    """Return an escaped text as HTML; its parts in backticks become code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _plain(text: str) -> str:
    """Return a title without its mathematical markup."""
    return re.sub(r"\$(\w)_\{(\w+)\}\$", r"\1_\2", text)


def _run_sentence(about: list[dict[str, Any]]) -> str:
    """Return one sentence that describes the run: models, tasks, texts, prompts, seeds, number formats and devices."""
    studies = [metadata for metadata in about if "model" in metadata]
    if not studies:
        return ""

    def join_unique(values) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    tasks = join_unique(figures.task_title(m, "external prompts") for m in studies)
    prompts = sorted({m["observed"]["prompts"] for m in studies})
    texts = join_unique(m["corpus"]["source"] for m in studies).replace("builtin", "generated texts")
    seeds = join_unique(seed for m in studies for seed in m["seeds"])
    return (
        f"Run: {join_unique(map(_model_label, studies))} on {tasks} (texts: {texts}), "
        f"{' or '.join(map(str, prompts))} prompts per task, seeds {seeds}; "
        f"{join_unique(map(figures.number_format, studies))} on "
        f"{join_unique(m['device'] for m in studies)}."
    )


def _model_label(metadata: dict[str, Any]) -> str:
    """Return a model's name, followed by a description of its weights if they are not those of a float checkpoint."""
    weights = figures.weights(metadata["model"])
    return metadata["model"]["name"] + (f" ({weights})" if weights else "")


def _chain(
    results: Path, inputs: dict[str, str], read_metadata: Callable[[Path], dict[str, Any]], level: int = 0
) -> Iterator[Step]:
    """Yield the inputs of an artifact and, recursively, the inputs of each of them, down to the corpus.

    Each file appears at most once below the same parent.
    """
    for name, digest in inputs.items():
        yield Step(name, digest, level)
        path = results / name
        if path.suffix == ".parquet" and path.is_file():
            yield from _chain(results, read_metadata(path)["inputs"], read_metadata, level + 1)


def _alt_text(item: Shown, verdicts: list[Verdict]) -> str:
    """Return the alternative text of an item: its caption and the verdicts on its claims."""
    found = [
        f"{v.model}: {v.outcome} ({v.claim.statement.rstrip('.')})." for v in verdicts if v.model and v.outcome != UNTESTABLE
    ]
    return " ".join([item.caption, *found])
