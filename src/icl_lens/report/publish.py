"""Page, scorecard and pictures that summarise a run for publication in a repository.

All input is read from results folders that pass :mod:`icl_lens.results.audit`. The same folders always give the same bytes.
The files contain no text of a data set; :func:`_require_no_quotes` checks them before they are published.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from icl_lens.artifacts import hashes, parquet
from icl_lens.artifacts.files import make_readable, temporary_folder, writing
from icl_lens.errors import InputError
from icl_lens.report import claims, figures, replicates, scorecard, seed_spread
from icl_lens.report import page as report
from icl_lens.report.claims import Replicates
from icl_lens.report.item_names import item_heading
from icl_lens.report.verdicts import OUTCOMES, UNDECIDED, UNTESTABLE, Verdict, interval_text, number_text
from icl_lens.results import audit, nulls
from icl_lens.statistics.answers import SCORES
from icl_lens.statistics.resampling import OVER_TASKS
from icl_lens.studies import registry
from icl_lens.studies.anchors.icl.study import STUDY as ICL

TEMPLATE = "page.md.jinja"
"""File name of the page's template."""

# The items on a page, in order. Figure 1 and Table 5 are omitted because they quote texts.
PUBLISHED = (
    *("figure_3", "figure_4", "figure_5", "figure_7", "figure_8", "figure_9", "table_1", "table_2", "table_3"),
    *("kr_figure_3", "kr_table_2", "cr_figure_1", "cr_table_3", "rc_rsa", "rc_attention_ratio"),
)

# Items with claims that are judged on another table of the same rows, which the page does not show.
_EXTRA_CLAIM_ITEMS = {"cr_figure_1": ("cr_table_1",)}

# Minimum length in characters of a quote. Shorter texts of a data set may also be ordinary words of the page.
_MIN_QUOTE_LENGTH = 20

_EXTRA = {"majority_baseline": "majority baseline", "commonest": "majority baseline", "null_95": "null, 95 % quantile"}


@dataclass(frozen=True)
class Numbers:
    """Selection of the numbers of an item's CSV that the page shows.

    Attributes:
        keys: Columns that identify a row.
        values: Value column -> the columns with the ends of its interval; empty if the item has no interval.
        rows: Column -> the values of the rows to show.
        extra: Additional columns to show.
        note: Explanation of the numbers for the reader.
    """

    keys: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, tuple] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    note: str = ""


_ENDS = ("low", "high")
_BALANCED_ENDS = ("balanced_accuracy_low", "balanced_accuracy_high")
_OVER_TASKS = {"task": (OVER_TASKS,)}
_CONTRASTS = ("none", "control", "examples", "examples - none", "examples - control")
_LOYALTIES = {"metric": ("label_loyalty", "word_loyalty_5")}
_MEAN_OF_LAYERS = {"of": ("mean of layers",), "which": ("none", "most"), "contrast": _CONTRASTS}

# Notebook of an item -> selection of its numbers. For cr_figure_1 the page shows counts, see :func:`_component_counts`.
_NUMBERS = {
    "figure_3": Numbers(
        ("task", "metric", "layer"),
        {"share": _ENDS},
        {"metric": ("s_wp", "s_pq", "s_ww")},
        note="Layers are numbered from 0.",
    ),
    "figure_4": Numbers(("task", "metric", "target", "side", "layers"), {"value": _ENDS}, _LOYALTIES),
    "figure_8": Numbers(
        ("metric", "target", "side", "layers"), {"value": _ENDS}, {**_OVER_TASKS, **_LOYALTIES}, note="Mean over tasks."
    ),
    "figure_5": Numbers(
        ("metric", "layer"),
        {"value": _ENDS},
        {**_OVER_TASKS, "two_classes": ("normalised",)},
        note="Mean over tasks; layers are numbered from 0.",
    ),
    "table_1": Numbers(
        ("task", "method", "shots"),
        {"accuracy": _ENDS, "balanced_accuracy": _BALANCED_ENDS},
        extra=("macro_f1", "majority_baseline"),
    ),
    "table_2": Numbers(
        ("method", "positions"),
        {name: (f"{name}_low", f"{name}_high") for name in ("label_loyalty", "word_loyalty", *SCORES)},
        _OVER_TASKS,
        extra=("majority_baseline",),
        note="Mean over tasks. positions: position ids of the query after the kept keys and values.",
    ),
    "table_3": Numbers(
        ("task",),
        {"ratio": (), "shared": ()},
        {"together": (False,)},
        note="ratio: time of the whole prompt divided by the time of the query after compressed demonstrations; shared: time "
        "of the whole prompt divided by the time of the query after all keys and values. Times vary between runs.",
    ),
    "kr_figure_3": Numbers(
        ("task", "metric", "layer", "head"),
        {"value": _ENDS},
        {
            "metric": (
                "best head vs model",
                "best head vs truth",
                "best head in sample vs model",
                "best head in sample vs truth",
                "depth of the best heads",
            )
        },
        extra=("commonest", "null_95"),
        note="Layers and heads are numbered from 0. The best head is chosen on other prompts than those on which it is scored, "
        "except in sample.",
    ),
    "kr_table_2": Numbers(("task", "quantity", "against", "how"), {"value": _ENDS}, extra=("commonest", "null_95")),
    "cr_table_3": Numbers(
        ("task", "method", "labels"),
        {"value": _ENDS, "balanced_accuracy": _BALANCED_ENDS},
        extra=("majority_baseline",),
        note="value: accuracy.",
    ),
    "rc_rsa": Numbers(
        ("task", "distractors", "hypothesis", "contrast"),
        {"value": _ENDS},
        {**_MEAN_OF_LAYERS, "pooling": ("mean",)},
        note="Mean over layers, with the maximum number of examples.",
    ),
    "rc_attention_ratio": Numbers(
        ("task", "distractors", "contrast"),
        {"value": _ENDS},
        {**_MEAN_OF_LAYERS, "kind": ("mean",), "below": ("irrelevant",)},
        note="log A, mean over layers, with the maximum number of examples.",
    ),
}


@dataclass
class Item:
    """A figure or table of a results folder.

    Attributes:
        name: Name of the item as a Snakemake target.
        results: The results folder that contains the item.
        csv: The plotted or tabulated data.
        about: Metadata of the tables from which the item was drawn.
        files: Files read for the item, relative to the results folder.
        tables: Tables from which the item was drawn, relative to the results folder.
        by_seed: For each seed, the CSV with that seed's values.
        replicates: The estimates behind the numbers of ``csv``.
    """

    name: str
    results: Path
    csv: pd.DataFrame
    about: list[dict[str, Any]]
    files: list[str]
    tables: list[str]
    by_seed: dict[int, pd.DataFrame]
    replicates: Replicates = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Common path of the item's files without extension, relative to the results folder."""
        return f"{registry.items()[self.name].kind}s/{self.name}"

    @property
    def titles(self) -> dict[str, str]:
        """Title of each task, by task name."""
        tasks = [metadata["task"] for metadata in self.about if metadata.get("task")]
        return {task["name"]: task["title"] for task in tasks}


def write(results: Sequence[Path], docs: Path, name: str | None, claims_files: Sequence[Path], page: Path) -> list[str]:
    """Write a run's page, scorecard and pictures into a folder. If a check fails, nothing is written.

    Args:
        results: Results folders. Each item is taken from the first folder that contains it.
        docs: Output folder for NAME.md, NAME-scorecard.csv and the folder NAME.
        name: NAME; by default the name of the model.
        claims_files: Claims files, one per paper.
        page: The folder with the page's template.

    Returns:
        The written files, relative to ``docs``.

    Raises:
        InputError: If a results folder does not pass the audit or contains nothing to publish, if several models are shown and
            no name is given, if an output file would quote a text of a data set, or if the folder NAME contains files that this
            function did not write.
    """
    if docs.exists() and not docs.is_dir():
        raise InputError(f"{docs} is a file; give an output folder")
    with writing(docs):
        docs.mkdir(parents=True, exist_ok=True)
        with _temporary_output(results, name, claims_files, page, docs) as (temporary, name):
            _require_only_own_files(docs / name)
            # The complete new folder replaces the old one by renaming, so an interruption cannot leave partly written files.
            if (docs / name).exists():
                (docs / name).rename(temporary / ".old")
            (temporary / name).rename(docs / name)
            for file in (f"{name}-scorecard.csv", f"{name}.md"):
                (temporary / file).replace(docs / file)
            return [f"{name}.md", f"{name}-scorecard.csv", *_files(docs / name, docs)]


def check(results: Sequence[Path], docs: Path, name: str | None, claims_files: Sequence[Path], page: Path) -> list[str]:
    """Compare the files in ``docs`` with the output that :func:`write` would produce now, without changing any file.

    Returns:
        One sentence per difference.
    """
    with (
        temporary_folder("icl-lens-") as scratch,
        _temporary_output(results, name, claims_files, page, Path(scratch)) as (temporary, name),
    ):
        expected = {file: temporary / file for file in _files(temporary, temporary)}
        found = {file: docs / file for file in [f"{name}.md", f"{name}-scorecard.csv", *_files(docs / name, docs)]}
        return [
            *(f"{docs / file} is missing" for file in expected if not found.get(file, docs / file).is_file()),
            *(
                f"{docs / file} differs from the current output for {' and '.join(map(str, results))}"
                for file, path in expected.items()
                if file in found and found[file].is_file() and found[file].read_bytes() != path.read_bytes()
            ),
            *(
                f"{docs / file} is no longer part of the output"
                for file in found
                if file not in expected and (docs / file).is_file()
            ),
        ]


def _files(folder: Path, root: Path) -> list[str]:
    """Return the sorted paths of all files in ``folder``, relative to ``root``."""
    return sorted(path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())


def _require_only_own_files(folder: Path) -> None:
    """Check that a folder to be replaced contains only files that this command wrote.

    Raises:
        InputError: If it contains another file or is not a folder.
    """
    if not folder.exists():
        return
    try:
        published = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        published = {}
    unexpected = [
        name for name in _files(folder, folder.parent) if name not in published and name != f"{folder.name}/inputs.json"
    ]
    if unexpected or not folder.is_dir():
        raise InputError(
            f"{folder} contains a file that `icl-lens publish` did not write ({unexpected[0] if unexpected else folder.name}); "
            "move it, or choose another --name"
        )


@contextmanager
def _temporary_output(
    results: Sequence[Path], name: str | None, claims_files: Sequence[Path], page: Path, parent: Path
) -> Iterator[tuple[Path, str]]:
    """Context manager that makes all files in a temporary folder inside ``parent`` and yields that folder and the name."""
    for folder in results:
        _require_no_faults(folder)
    trees = [folder.resolve() for folder in results]
    duplicate = next((tree.name for tree in trees if [other.name for other in trees].count(tree.name) > 1), None)
    if duplicate:
        raise InputError(f"two results folders are named {duplicate}; rename one of them, or pass it only once")
    papers = [claims.load(path) for path in claims_files]
    needed = {claim.item for paper in papers for claim in paper.claims} | set(PUBLISHED)
    items = {each: found for each in registry.items() if each in needed and (found := _item(trees, each)) is not None}
    shown = [each for each in PUBLISHED if each in items]
    if not shown:
        raise InputError(
            f"{', '.join(map(str, results))}: no figure or table to publish (expected one of {', '.join(PUBLISHED)})"
        )
    models = _models(items[each] for each in shown)
    if name is None and len(models) > 1:
        raise InputError(f"the results contain several models ({', '.join(models)}); pass --name")
    name = name or next(iter(models))
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise InputError(f"--name {name} is not a valid file name; use letters, digits, dots and hyphens")
    found = {paper.name: _verdicts(paper, items) for paper in papers}
    null_runs = [scorecard.read_null(null, path) for null, path in _null_files(trees).items()]
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    try:
        (temporary / name).mkdir()
        numbers = {each: _numbers(items[each], papers) for each in shown}
        for each in shown:
            numbers[each].to_csv(temporary / name / f"{each}.csv", index=False, lineterminator="\n")
            if registry.items()[each].kind == "figure":
                shutil.copyfile(items[each].results / f"{items[each].stem}.png", temporary / name / f"{each}.png")
        scorecard.table(papers, found).to_csv(temporary / f"{name}-scorecard.csv", index=False, lineterminator="\n")
        text = _page(page, name, items, shown, found, numbers, models, null_runs)
        (temporary / f"{name}.md").write_text(text, encoding="utf-8")
        _require_no_quotes(trees, [path for path in temporary.rglob("*") if path.suffix in (".csv", ".md")])
        _record(temporary, name, items, claims_files, _null_files(trees))
        for path in temporary.rglob("*"):
            if path.is_file():
                make_readable(path)
        yield temporary, name
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_no_faults(results: Path) -> None:
    _, faults = audit.audit(results, registry.schemas())
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise InputError(
            f"{results} does not pass `icl-lens audit`, so nothing is published: {faults[0].sentence}{more}; run `icl-lens "
            f"audit {results} --repair` to delete the faulty files, then rerun snakemake"
        )


def _item(trees: Sequence[Path], name: str) -> Item | None:
    """Return an item from the first results folder that contains it, or None if no folder does.

    Raises:
        InputError: If the item's record or CSV cannot be read.
    """
    stem = f"{registry.items()[name].kind}s/{name}"
    results = next((tree for tree in trees if (tree / f"{stem}.json").is_file()), None)
    if results is None:
        return None
    try:
        record = json.loads((results / f"{stem}.json").read_text(encoding="utf-8"))
        tables = [path for path in record["inputs"] if path.endswith(".parquet")]
        csv = pd.read_csv(results / f"{stem}.csv", keep_default_na=False, na_values=[""])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{results / stem} is missing or corrupted; run `snakemake {name} --cores all` with the same config"
        ) from error
    about = [parquet.read_metadata(results / path) for path in tables]
    files = [
        f"{stem}.json",
        *record["inputs"],
        *(path for path in record["outputs"] if path.endswith((".csv", ".png", ".md", replicates.ENDING))),
    ]
    chain = {path: None for metadata in about for path in _source_tables(results, metadata)}
    by_seed = seed_spread.by_seed(results, name, csv, tables)
    return Item(name, results, csv, about, [*files, *chain], tables, by_seed, report.read_replicates(results / stem))


def _source_tables(results: Path, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield the tables in the results folder from which a table was made, down to the corpus."""
    for path in metadata.get("inputs", {}):
        if (results / path).is_file() and path.endswith(".parquet"):
            yield path
            yield from _source_tables(results, parquet.read_metadata(results / path))


def _models(items: Iterator[Item]) -> dict[str, dict[str, Any]]:
    """Return, for each model that is shown, the metadata of one of its tables, by model name."""
    return {m["model"]["name"]: m for item in items for m in item.about if "model" in m}


def _null_files(trees: Sequence[Path]) -> dict[str, Path]:
    """Return the scorecards of the null runs; of two null runs of the same kind, the one in the first results folder."""
    return {name: path for tree in reversed(trees) for name, path in nulls.scorecards(tree).items()}


def _verdicts(paper: claims.Paper, items: Mapping[str, Item]) -> list[Verdict]:
    """Return the verdicts on a paper's claims, with the titles of tasks in the names of cells."""
    by_seed = {
        claim.id: items[claim.item].by_seed
        for claim in paper.claims
        if claim.item in items and claim.rule.column in seed_spread.columns(claim.item)
    }
    found = []
    for verdict in report.verdicts_of(paper, items, by_seed=by_seed):
        item = items.get(verdict.claim.item)
        task, comma, rest = verdict.cell.partition(", ")
        found.append(replace(verdict, cell=f"{item.titles.get(task, task)}{comma}{rest}" if item else ""))
    return found


def _spread(lowest: float, highest: float, sd: float) -> str:
    return "" if pd.isna(sd) else f"{number_text(lowest)} to {number_text(highest)} (sd {number_text(sd)})"


def _numbers(item: Item, papers: Sequence[claims.Paper]) -> pd.DataFrame:
    """Return the numbers of an item that the page shows.

    Returns:
        One row per number, with the columns that identify it (model, ..., measure), value, low, high, seed_lowest,
        seed_highest, seed_sd, seeds, additional columns of the CSV, prompts, and a column ``paper: MODEL`` for each of the
        paper's models with numbers in the claims.
    """
    if registry.items()[item.name].drawn_by == "cr_figure_1":
        return _component_counts(item)
    spec = _NUMBERS[registry.items()[item.name].drawn_by]
    rows = item.csv
    for column, selected in spec.rows.items():
        rows = rows[rows[column].isin(selected)]
    paper_values = _paper_values(item, papers)
    models = list(dict.fromkeys(model for numbers_by_model in paper_values.values() for model in numbers_by_model))
    records = []
    for index, row in rows.iterrows():
        keys = {name: row[name] for name in ("model", *spec.keys) if name in rows}
        if "task" in keys:
            keys["task"] = item.titles.get(keys["task"], keys["task"])
        for column, ends in spec.values.items():
            lowest, highest, sd, seeds = seed_spread.spread([seed_csv.loc[index, column] for seed_csv in item.by_seed.values()])
            records.append(
                {
                    **keys,
                    **({"measure": column} if len(spec.values) > 1 else {}),
                    "value": row[column],
                    "low": row[ends[0]] if ends else np.nan,
                    "high": row[ends[1]] if ends else np.nan,
                    "seed_lowest": lowest,
                    "seed_highest": highest,
                    "seed_sd": sd,
                    "seeds": seeds,
                    **{_EXTRA.get(name, name): row[name] for name in spec.extra if name in rows},
                    **({"prompts": row["prompts"]} if "prompts" in rows else {}),
                    **{f"paper: {_short(model)}": paper_values.get((index, column), {}).get(model) for model in models},
                }
            )
    table = pd.DataFrame(records)
    # pandas reads whole numbers as floats if other cells of the column are empty.
    numbers = [name for name in (*spec.keys, "prompts") if name in table and pd.api.types.is_numeric_dtype(table[name])]
    return table.astype({name: "Int64" for name in numbers if (table[name].dropna() % 1 == 0).all()})


def _paper_values(item: Item, papers: Sequence[claims.Paper]) -> dict[tuple[Any, str], dict[str, float]]:
    """Return the paper's numbers for rows of an item as a mapping (row, column) -> the paper's model -> number."""
    found: dict[tuple[Any, str], dict[str, float]] = {}
    for claim in (claim for paper in papers for claim in paper.claims):
        if claim.item == item.name and claim.rule.within is not None and claim.rule.take != "mean":
            for _, model_rows in item.csv.groupby("model", sort=False):
                for index in claims.cells(claim, model_rows).index:
                    found.setdefault((index, claim.rule.column), {})[claim.model] = claim.value
    return found


def _short(model: str) -> str:
    """Return the name of a Hub model without its owner."""
    return model.rpartition("/")[2]


def _component_counts(item: Item) -> pd.DataFrame:
    """Count the components of cr_figure_1 by type: the mean over the seeds of a task, and the spread over seeds."""
    keys = ["model", "task", "kind", "type"]
    counts = item.csv.groupby([*keys, "seed"], sort=False).size().unstack("seed", fill_value=0)
    sizes = item.csv.groupby(["model", "task", "kind", "seed"], sort=False).size().groupby(["model", "task", "kind"]).first()
    prompts = item.csv.groupby(["model", "task"])["prompts"].first()
    records = []
    for key, row in counts.iterrows():
        lowest, highest, sd, seeds = seed_spread.spread(row.tolist())
        records.append(
            {
                **dict(zip(keys, key, strict=True)),
                "task": item.titles.get(key[1], key[1]),
                "value": float(row.mean()),
                "low": np.nan,
                "high": np.nan,
                "seed_lowest": lowest,
                "seed_highest": highest,
                "seed_sd": sd,
                "seeds": seeds,
                "of": int(sizes[key[:3]]),
                "prompts": int(prompts[key[:2]]) * max(1, row.size),
            }
        )
    return pd.DataFrame(records)


def _page(
    folder: Path,
    name: str,
    items: Mapping[str, Item],
    shown: Sequence[str],
    found: Mapping[str, list[Verdict]],
    numbers: Mapping[str, pd.DataFrame],
    models: Mapping[str, dict[str, Any]],
    null_runs: Sequence[scorecard.Null],
) -> str:
    """Render the page as Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["md"] = figures.escape_markdown
    about = [metadata for each in shown for metadata in items[each].about]
    all_verdicts = [verdict for of_paper in found.values() for verdict in of_paper]
    sections = []
    for each in shown:
        item = items[each]
        testable = [
            v for v in all_verdicts if v.claim.item in (each, *_EXTRA_CLAIM_ITEMS.get(each, ())) and v.outcome != UNTESTABLE
        ]
        sections.append(
            {
                "item": each,
                "heading": item_heading(each),
                "kind": registry.items()[each].kind,
                "title": registry.items()[each].title,
                "plain": report._plain(registry.items()[each].title),
                "paper": registry.groups()[registry.items()[each].group].heading,
                "run": _run_sentence(item),
                "paragraph": _paragraph(testable),
                "claims": _table(_claims_table(testable)),
                "numbers": _table(_readable(numbers[each])),
                "note": _numbers_note(item),
                "tables_notes": _table_notes(item),
                "paper_models": registry.items()[each].paper_models,
            }
        )
    missing = [item_heading(each) for each in PUBLISHED if each not in items]
    return environment.get_template(TEMPLATE).render(
        name=name,
        models=list(models),
        facts={model: _facts(metadata) for model, metadata in models.items()},
        data=_table(_data(items, shown)),
        prompts=_table(_prompt_sets(items, shown)),
        accuracies=_table(_accuracy_table(items, shown)),
        libraries=_libraries(about),
        notes=figures.notes([metadata for metadata in about if "model" in metadata]),
        headline=scorecard.headline(found, null_runs),
        counts=_table(scorecard.counts_table(scorecard.counts(found, null_runs))),
        chance=scorecard.chance_sentence(all_verdicts),
        null_note=scorecard.null_sentence(null_runs),
        untestable=_table(_untestable_table(all_verdicts)),
        not_testable=sum(v.outcome == UNTESTABLE for v in all_verdicts),
        sections=sections,
        missing=missing,
    )


def _run_sentence(item: Item) -> str:
    """Return one sentence that describes the run behind an item."""
    studies = [metadata for metadata in item.about if "model" in metadata]

    def join_unique(values) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    def model_label(metadata: dict[str, Any]) -> str:
        facts = [figures.weights(metadata["model"]), figures.number_format(metadata)]
        return f"{metadata['model']['name']} ({', '.join(filter(None, facts))})"

    prompts = sorted({metadata["observed"]["prompts"] for metadata in studies})
    seeds = {seed for metadata in studies for seed in metadata["seeds"]}
    return (
        f"Model: {join_unique(map(model_label, studies))}; data: {join_unique(item.titles.values())}; "
        f"{' or '.join(map(str, prompts))} prompts per task, seed{'s' * (len(seeds) > 1)} {_seeds(seeds)}."
    )


def _seeds(seeds: Iterable[int]) -> str:
    """Format seeds as text. Consecutive seeds are written as a range."""
    ordered = sorted(set(seeds))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


def _paragraph(item_verdicts: Sequence[Verdict]) -> str:
    """Return one Markdown paragraph that lists the claims by verdict."""
    if not item_verdicts:
        return "No claim about this item is testable with this run; its numbers are below."
    several = len({v.model for v in item_verdicts}) > 1
    parts = []
    for outcome in OUTCOMES:
        selected = [v for v in item_verdicts if v.outcome == outcome]
        if selected:
            lead = outcome[0].upper() + outcome[1:]
            parts.append(f"**{lead}.** " + " ".join(_sentence(v, several) for v in selected))
    return " ".join(parts)


def _sentence(verdict: Verdict, show_model: bool) -> str:
    """Return a claim's statement followed by the measured values."""
    statement = f"*{figures.escape_markdown(verdict.claim.statement.rstrip('.'))}*"
    named = [verdict.model] * show_model + ["paper's own model"] * verdict.original
    statement += f" ({figures.escape_markdown(', '.join(named))})" if named else ""
    facts = [figures.escape_markdown(verdict.measurement)] if verdict.measured else []
    if verdict.cells > 1 or verdict.outcome == UNDECIDED or not verdict.interval:
        facts.append(figures.escape_markdown(verdict.reason))
    if verdict.seeds > 1:
        spread = f" ({number_text(verdict.seed_lowest)} to {number_text(verdict.seed_highest)})"
        facts.append(f"{verdict.seeds_obeying} of {verdict.seeds} seeds satisfy the rule{spread}")
    return f"{statement}: {'; '.join(facts)}." if facts else f"{statement}."


def _claims_table(item_verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return the table of an item's claims as the page shows it."""
    show_model = len({v.model for v in item_verdicts}) > 1
    return pd.DataFrame(
        {
            "claim": v.claim.id,
            **({"model": v.model} if show_model else {}),
            "where": v.claim.where,
            "paper": "no number" if v.claim.value is None else str(v.claim.value),
            "ours [interval]": v.measurement,
            "over seeds": _spread(v.seed_lowest, v.seed_highest, v.seed_sd),
            "prompts": v.prompts or "",
            "verdict": v.outcome + " (paper's own model)" * v.original,
        }
        for v in item_verdicts
    )


def _untestable_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """Return the table of the claims that are not testable, with the number measured on this model if there is one."""
    return pd.DataFrame(
        {
            "claim": v.claim.id,
            "item": item_heading(v.claim.item),
            "paper": "no number" if v.claim.value is None else str(v.claim.value),
            "ours [interval]": v.measurement,
            "reason": v.reason,
        }
        for v in found
        if v.outcome == UNTESTABLE
    )


def _readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of an item as the page shows them.

    A value and its interval share one cell, as do the ends and the standard deviation of the spread. Empty columns are removed.
    """
    measured = numbers.apply(lambda row: interval_text(row["value"], row["low"], row["high"]), axis=1)
    seeds = numbers.apply(lambda row: _spread(row["seed_lowest"], row["seed_highest"], row["seed_sd"]), axis=1)
    value_index = list(numbers.columns).index("value")
    head, tail = list(numbers.columns[:value_index]), list(numbers.columns[value_index + 7 :])
    table = numbers[head].assign(**{"value [interval]": measured, "over seeds": seeds}).join(numbers[tail])
    for column in tail:
        if pd.api.types.is_float_dtype(table[column]) or column.startswith("paper: "):
            table[column] = table[column].map(lambda value: "" if value is None or pd.isna(value) else f"{value:.4g}")
    table = table.astype(object).where(table.notna(), "")
    empty = [column for column in table if (table[column] == "").all()]
    return table.drop(columns=[*empty, *(["model"] if numbers["model"].nunique() == 1 else [])])


def _numbers_note(item: Item) -> str:
    """Return the note that explains the intervals, the spread and the columns of an item's numbers."""
    spec = _NUMBERS.get(registry.items()[item.name].drawn_by)
    sentences = [spec.note] if spec and spec.note else []
    if spec is None:
        sentences.append("value: number of components of each type, mean over seeds; of: number of components of this kind.")
    if registry.items()[item.name].drawn_by == "table_3":
        sentences.append("The brackets in the claims table are the lowest and the highest seed, not a confidence interval.")
    if item.by_seed or spec is None:
        shared = not registry.items()[item.name].set.startswith("fresh")
        sentences.append(
            "Each seed is one demonstration set."
            if shared
            else "Each query has its own demonstrations; the seed determines the demonstrations, their order and the queries."
        )
    else:
        sentences.append("There is no spread over seeds, because the study has one seed.")
    return " ".join(sentences)


def _table_notes(item: Item) -> list[str]:
    """Return the paragraphs below an item's Markdown table. For a figure the result is empty, as the picture has the notes."""
    if registry.items()[item.name].kind == "figure":
        return []
    text = (item.results / f"{item.stem}.md").read_text(encoding="utf-8")
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip() and not part.startswith("|")]


def _facts(metadata: dict[str, Any]) -> str:
    """Return a Markdown table of the facts that a run recorded about its model."""

    def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in facts.items():
            if isinstance(value, Mapping):
                yield from flatten(value, f"{prefix}{key} ")
            else:
                yield f"{prefix}{key}", value

    facts = {**dict(flatten(metadata["model"])), "number format": figures.number_format(metadata), "device": metadata["device"]}
    name = facts.pop("name")
    texts = {key.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value) for key, value in facts.items()}
    return _table(pd.DataFrame({"model": texts.keys(), name: texts.values()}))


def _data(items: Mapping[str, Item], shown: Sequence[str]) -> pd.DataFrame:
    """Return a table of the texts that were used, one row per task.

    Each row lists the task's files and the number of texts per split. For a subset, it also gives the number of published
    texts.
    """
    corpora = {
        (item.results, path): title
        for item in (items[each] for each in shown)
        for path in item.files
        if path.startswith("corpora/")
        for title in [item.titles.get(Path(path).stem, Path(path).stem)]
    }
    rows = {}
    for (results, path), title in corpora.items():
        metadata = parquet.read_metadata(results / path)
        counts = pd.read_parquet(results / path, columns=["split"])["split"].value_counts()
        subsets = metadata["corpus"].get("subsets", {})
        texts = [
            f"{split} {counts[split]:,}" + (f" of {subsets[split]['published']:,}" if split in subsets else "")
            for split in sorted(counts.index, reverse=True)
        ]
        rows[title] = {
            "task": title,
            "texts": {"builtin": "generated texts"}.get(metadata["corpus"]["source"], metadata["corpus"]["source"]),
            "files": ", ".join(f"{file.partition(': ')[2]} ({digest[:12]})" for file, digest in metadata["inputs"].items()),
            "number": ", ".join(texts),
        }
    table = pd.DataFrame(rows.values())
    return table if table.empty or table["files"].any() else table.drop(columns="files")


def _prompt_sets(items: Mapping[str, Item], shown: Sequence[str]) -> pd.DataFrame:
    """Return a table of the prompt sets, one row per prompt set, seeds and number of queries.

    Each row lists the tasks, the seeds, the maximum number of queries per seed and the items that read the prompt set.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for each in shown:
        item = items[each]
        for path in dict.fromkeys(file for file in item.files if file.startswith("prompts/")):
            metadata = parquet.read_metadata(item.results / path)
            task, name = Path(path).parts[1], Path(path).stem
            queries = metadata.get("settings", {}).get("queries")
            key = (name, _seeds(metadata["seeds"]), queries if isinstance(queries, int) else "")
            row = rows.setdefault(key, {"tasks": {}, "items": {}})
            row["tasks"][item.titles.get(task, task)] = row["items"][item_heading(each)] = None
    return pd.DataFrame(
        {
            "prompt set": name,
            "tasks": ", ".join(row["tasks"]),
            "seeds": seeds,
            "max. queries per seed": queries,
            "used by": "; ".join(row["items"]),
        }
        for (name, seeds, queries), row in rows.items()
    )


def _accuracy_table(items: Mapping[str, Item], shown: Sequence[str]) -> pd.DataFrame:
    """Return a table of accuracy, balanced accuracy and majority baseline for each model, task and prompt set."""
    tables: dict[Path, dict[str, None]] = {}
    for item in (items[each] for each in shown):
        answers = dict.fromkeys(path for path in item.tables if path.endswith("/icl.parquet"))
        if answers:
            tables.setdefault(item.results, {}).update(answers)
    if not tables:
        return pd.DataFrame()
    titles = {name: title for each in shown for name, title in items[each].titles.items()}
    # Different results folders may contain the same prompt set at different sizes.
    found = pd.concat(
        [
            seed_spread.accuracies(pd.concat([parquet.read(results / path, ICL.schema)[0] for path in paths]))
            for results, paths in tables.items()
        ],
        ignore_index=True,
    )
    return pd.DataFrame(
        {
            **({"model": row.model} if found["model"].nunique() > 1 else {}),
            "task": titles.get(row.task, row.task),
            "prompt set": row.set,
            "accuracy [interval]": interval_text(row.accuracy, row.low, row.high),
            "over seeds": _spread(row.seed_lowest, row.seed_highest, row.seed_sd),
            "balanced accuracy [interval]": interval_text(
                row.balanced_accuracy, row.balanced_accuracy_low, row.balanced_accuracy_high
            ),
            "majority baseline": number_text(row.majority_baseline),
            "prompts": row.prompts,
        }
        for row in found.itertuples()
    )


def _libraries(about: Sequence[dict[str, Any]]) -> str:
    """Return the library versions as a comma-separated list."""
    found: dict[str, dict[str, None]] = {}
    for metadata in about:
        for name, version in metadata["libraries"].items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in sorted(found.items()))


def _table(table: pd.DataFrame) -> str:
    """Format a table as Markdown; an empty table gives an empty string."""
    if table.empty:
        return ""
    head = [figures.escape_markdown(str(name)) for name in table]
    body = [[figures.escape_markdown(str(cell)) for cell in row] for row in table.itertuples(index=False)]
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _require_no_quotes(trees: Sequence[Path], files: Sequence[Path]) -> None:
    """Check that no file to be published quotes a text of a data set.

    Raises:
        InputError: If a file does.
    """
    contents = {path: path.read_text(encoding="utf-8") for path in files}
    combined = "\n".join(contents.values())
    for corpus in (path for tree in trees for path in sorted((tree / "corpora").glob("*.parquet"))):
        for text in pd.read_parquet(corpus, columns=["text"])["text"]:
            quote = text.strip()
            if len(quote) >= _MIN_QUOTE_LENGTH and (quote in combined or figures.escape_markdown(quote) in combined):
                file = next((path.name for path, content in contents.items() if quote in content), "the page")
                raise InputError(f"{file} would quote a text of {corpus.name}, so nothing is published")


def _record(
    temporary: Path, name: str, items: Mapping[str, Item], claims_files: Sequence[Path], null_files: Mapping[str, Path]
) -> None:
    """Write inputs.json with the hashes of all files that were read or written."""
    read: dict[str, dict[str, str]] = {}
    for item in items.values():
        tree_hashes = read.setdefault(item.results.name, {})
        for path in item.files:
            tree_hashes[path] = tree_hashes.get(path) or hashes.file_hash(item.results / path)
    facts = {
        "inputs": read,
        "claims": {path.name: hashes.file_hash(path) for path in claims_files},
        "nulls": {null: hashes.file_hash(path) for null, path in null_files.items()},
        "outputs": {path: hashes.file_hash(temporary / path) for path in _files(temporary, temporary)},
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False, sort_keys=True)
    (temporary / name / "inputs.json").write_text(text + "\n", encoding="utf-8")
