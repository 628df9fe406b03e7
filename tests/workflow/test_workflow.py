"""Tests of the workflow as users run it: all items, one figure, reruns, edits, a killed run and invalid input."""

import hashlib
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest

from icl_lens.artifacts import audit, code, parquet
from icl_lens.config import parse, plan
from icl_lens.report import claims
from icl_lens.statistics.attention_auc import agreement, attention_scores
from icl_lens.studies import registry
from icl_lens.studies.anchors.saliency.summary import METRICS
from tests import artifacts

from ..browser import complaints, opened
from ..conftest import REPOSITORY
from .conftest import TINY, Clone

# The items that `all` makes of the tiny configuration.
SHOWN = [item for item in registry.items().values() if item.in_all and all(parse.parse(TINY).shown(item.name))]
FIGURES = [item.name for item in SHOWN if item.kind == "figure"]
TABLES = [item.name for item in SHOWN if item.kind == "table"]


def made(folder):
    """Return the content hashes of all results that must be identical in each run."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not {"logs", "benchmarks"} & set(path.relative_to(folder).parts)
        and path.stem not in {"latency", "table_3", "table_6"}  # measured seconds, and tables of them
        and path.parent.name != "report"  # the report shows these tables
    }


CLAIMS = sorted((REPOSITORY / "resources/claims").glob("*.yaml"))

# Items that only show TREC, so they are the same in a run with only TREC.
OF_TREC = ("figure_6", "figure_7", "figure_14", "kr_figure_7")


def jobs(done):
    """Return the number of jobs per rule that a dry run announces."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)}


def test_every_item_is_made_with_all_its_files(tiny_run):
    clone, _ = tiny_run
    results = clone.folder / "results"
    for figure in FIGURES:
        for ending in ("pdf", "svg", "png", "csv", "json"):
            assert (results / f"figures/{figure}.{ending}").stat().st_size > 0
        notebook = json.loads((results / f"notebooks/{figure}.ipynb").read_text())
        assert any(cell.get("outputs") for cell in notebook["cells"])
    for table in TABLES:
        for ending in ("csv", "md", "tex", "json"):
            assert (results / f"tables/{table}.{ending}").stat().st_size > 0
    assert {"figure_1", "kr_figure_2", "cr_figure_1", "rc_rsa"} < set(FIGURES)
    assert {"table_1", "kr_table_3", "cr_table_3"} < set(TABLES)


def test_a_figure_says_what_it_is_made_from(tiny_run):
    clone, _ = tiny_run
    svg = (clone.folder / "results/figures/figure_3.svg").read_text()
    assert "tiny (untrained on such text)" in svg
    assert "built-in look-alikes" in svg
    record = json.loads((clone.folder / "results/figures/figure_3.json").read_text())
    assert "studies/tiny/sst2/fresh-1shot/saliency.parquet" in record["inputs"]


def test_what_is_plotted_is_the_papers_aggregation_of_the_artifact(tiny_run):
    clone, _ = tiny_run
    plotted = pd.read_csv(clone.folder / "results/figures/figure_3.csv")
    table, _ = artifacts.read(clone.folder / "results/studies/tiny/sst2/fresh-1shot/saliency.parquet", "saliency")
    for layer in range(3):
        shares = []
        for seed in (42, 43):
            rows = table[(table["layer"] == layer) & (table["seed"] == seed)]
            means = [sum(rows[m]) / len(rows) for m in ("s_wp", "s_pq", "s_ww")]
            shares.append([mean / sum(means) for mean in means])
        for number, metric in enumerate(("s_wp", "s_pq", "s_ww")):
            shown = plotted[(plotted["layer"] == layer) & (plotted["metric"] == metric) & (plotted["task"] == "sst2")]
            assert shown["share"].item() == pytest.approx((shares[0][number] + shares[1][number]) / 2, rel=1e-9)
    parts = plotted[plotted["metric"].isin(METRICS)]
    assert parts.groupby(["task", "layer"])["share"].sum().tolist() == pytest.approx([1] * 3)
    assert parts["share"].between(parts["low"] - 1e-12, parts["high"] + 1e-12).all()


def by_seed_and_task(tables, of_seed):
    """Return the mean over seeds, then over tasks, of a function of the rows of one seed, as in the paper."""
    return sum(sum(of_seed(rows[rows["seed"] == seed]) for seed in (42, 43)) / 2 for rows in tables) / len(tables)


@pytest.mark.parametrize(("figure", "folders"), [("figure_4", ("sst2", "trec")), ("figure_12", ("sst2_ab",))])
def test_plotted_loyalties_are_the_artifacts_means(tiny_run, figure, folders):
    clone, _ = tiny_run
    plotted = pd.read_csv(clone.folder / f"results/figures/{figure}.csv")
    name = {"figure_4": "shared-1shot", "figure_12": "shared-8shot"}[figure]
    paths = [clone.folder / f"results/studies/tiny/{task}/{name}/isolation.parquet" for task in folders]
    tables = [artifacts.read(path, "isolation")[0] for path in paths]
    over = plotted[plotted["task"] == "mean of tasks"].set_index(["target", "side", "metric"])
    assert set(over["layers"]) == {1}  # a fifth of three layers
    assert set(over["prompts"]) == {6 * len(folders)}
    for target in ("label", "random"):
        for side in ("first", "last"):
            for column, metric in (("label_agrees", "label_loyalty"), ("word_jaccard_5", "word_loyalty_5")):
                chosen = [rows[(rows["target"] == target) & (rows["side"] == side)] for rows in tables]
                expected = by_seed_and_task(chosen, lambda rows, column=column: rows[column].mean())
                shown = over.loc[(target, side, metric)]
                assert shown["value"] == pytest.approx(expected, abs=1e-12)
                assert shown["low"] - 1e-12 <= expected <= shown["high"] + 1e-12
    assert "LLaMA-33B" in (clone.folder / "results/figures/figure_12.svg").read_text()
    if figure == "figure_12":
        prompts, _ = artifacts.read(clone.folder / "results/prompts/sst2_ab/shared-8shot.parquet", "prompts")
        assert prompts["text"][0].count("\nSentiment: A\n") == prompts["text"][0].count("\nSentiment: B\n") == 8


def test_plotted_curves_are_the_artifacts_aucs(tiny_run):
    """Check that cells are empty and the figure says so for seeds with one predicted class (most, with three prompts)."""
    clone, _ = tiny_run
    plotted = pd.read_csv(clone.folder / "results/figures/figure_11.csv")
    plotted = plotted[plotted["two_classes"] == "normalised"].set_index(["task", "metric", "layer"])
    missing = []
    for task in ("sst2", "trec"):
        folder = clone.folder / f"results/studies/tiny/{task}/shared-2shot"
        scores, answers = (artifacts.read(folder / f"{kind}.parquet", kind)[0] for kind in ("deep_attention", "icl"))
        of_seeds = []
        for seed in (42, 43):
            rows = answers[answers["seed"] == seed]
            of_seeds.append(agreement(attention_scores(scores, rows["prompt_id"]), rows["prediction"].to_numpy()).auc)
            missing += [f"{task} seed {seed} (tiny)"] if rows["prediction"].nunique() == 1 else []
        known = [curve for curve in of_seeds if not np.isnan(curve).any()]
        expected = np.mean(known, axis=0) if known else np.full(3, np.nan)
        shown = [plotted.loc[(task, "auc", layer), "value"] for layer in (1, 2, 3)]
        assert shown == pytest.approx(expected.tolist(), nan_ok=True)
    text = " ".join(re.findall(r">([^<>]+)<", (clone.folder / "results/figures/figure_11.svg").read_text()))
    assert ("all predictions are one class" in " ".join(text.split())) == bool(missing)


def test_a_picture_of_one_prompt_draws_the_flow_and_the_words_of_that_prompt(tiny_run):
    clone, _ = tiny_run
    folder = clone.folder / "results/studies/tiny/sst2/fresh-1shot"
    flow, tokens = (artifacts.read(folder / f"{kind}.parquet", kind)[0] for kind in ("flow", "tokens"))
    drawn = pd.read_csv(clone.folder / "results/figures/figure_1.csv")
    assert set(drawn["layer"]) == {0, 2}
    edges = flow[flow["layer"].isin([0, 2]) & (flow["prompt_id"] == drawn["prompt_id"].iloc[0])]
    assert len(drawn) == len(edges)
    assert drawn["saliency"].sum() == pytest.approx(edges["saliency"].sum())
    shares = pd.read_csv(clone.folder / "results/figures/figure_2.csv")
    assert shares.groupby("layer")["share"].sum().tolist() == pytest.approx([1, 1])
    svg = (clone.folder / "results/figures/figure_1.svg").read_text()
    words = tokens.loc[(tokens["prompt_id"] == drawn["prompt_id"].iloc[0]) & (tokens["class"] >= 0), "token"]
    assert all(f">{word.strip()}<" in svg for word in words)


def test_a_prompt_that_is_not_there_is_one_sentence(tiny_run):
    clone, overlay = tiny_run
    other = clone.config("other-prompt", items={"figure_1": {"prompt": 99}})
    done = clone.snakemake("figure_1", "--cores", "1", "--configfile", overlay.name, other.name)
    assert done.returncode == 1
    assert "prompt 99 is asked for (items.*.prompt" in done.stdout
    assert "the prompts are 0 to 5" in done.stdout
    assert "Traceback" not in done.stdout
    assert clone.snakemake("--cores", "2", "--configfile", overlay.name).returncode == 0


def test_a_second_run_has_nothing_to_do(tiny_run):
    clone, overlay = tiny_run
    done = clone.snakemake("--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout


def test_from_scratch_every_file_is_the_same_bytes(tiny_run, tmp_path):
    clone, _ = tiny_run
    before = made(clone.folder / "results")
    assert len(before) > 30
    # Use another clone and another order of jobs. One task and few items keep the test short.
    other = Clone(tmp_path / "another clone")
    shutil.copytree(clone.folder / "my models", other.folder / "my models")
    overlay = other.config("tiny", **{**TINY, "tasks": ["trec"]})
    of_one_task = [name for name in before if re.search(r"^(studies/.*/(trec|lines)|synthetic)/", name)]
    assert len(of_one_task) > 20
    done = other.snakemake(
        *OF_TREC, *(f"results/{name}" for name in of_one_task), "--cores", "2", "--configfile", overlay.name
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    after = made(other.folder / "results")
    assert {*of_one_task, *(f"figures/{name}.pdf" for name in OF_TREC)} < set(after)
    assert after == {name: before[name] for name in after}


def downstream(clone, changed, edited=None):
    """Return the number of jobs per rule that must rerun, according to the provenance in the artifacts.

    Args:
        changed: Names of files below results/ with changed content, or a predicate of such names.
        edited: A source file with edited code, relative to the clone.
    """
    results = clone.folder / "results"
    stale = changed if callable(changed) else changed.__contains__
    again, counts = set(), {}

    def add(rule, name, inputs, sources):
        if stale(name) or any(path in again or stale(path) for path in inputs) or edited in sources:
            again.add(name)
            counts[rule] = counts.get(rule, 0) + 1

    def sources(modules):
        files = [code.module_file(module) for module in modules]
        return {f"src/icl_lens/{file.relative_to(code.PACKAGE).as_posix()}" for file in files}

    for stage in ("corpora", "synthetic", "prompts", "studies"):
        for path in sorted((results / stage).rglob("*.parquet")):
            name, about = path.relative_to(results).as_posix(), parquet.about(path)
            rule = "representation_prompts" if path.stem == "paired" else stage
            if stage in ("synthetic", "studies"):
                rule = registry.rule(registry.study(path.stem))
            add(rule, name, about["inputs"], sources(code.modules_of(*about["modules"])))
            for beside in about.get("beside", {}):
                again |= {beside} if name in again else set()
    for record in sorted([*results.glob("figures/*.json"), *results.glob("tables/*.json")]):
        item = registry.items()[record.stem]
        notebook = f"notebooks/{item.notebook}.ipynb"
        used = sources(code.notebook_modules(REPOSITORY / notebook)) | {notebook}
        add(item.kind, f"{record.parent.name}/{record.name}", json.loads(record.read_text())["inputs"], used)
    add("report", "report/index.html", [*again], sources(code.modules_of("icl_lens.report.page")))
    return counts


@pytest.mark.parametrize(
    "edited",
    [
        "src/icl_lens/studies/anchors/saliency/compute.py",
        "src/icl_lens/studies/anchors/deep_attention/compute.py",
        "src/icl_lens/studies/anchors/isolating.py",
        "src/icl_lens/prompts/protocol.py",
        "src/icl_lens/studies/anchors/reweighting/compute.py",
        "src/icl_lens/artifacts/parquet.py",
        "src/icl_lens/report/claims.py",
        "notebooks/anchors/table_4.ipynb",
        "src/icl_lens/cli/commands.py",
        "src/icl_lens/corpora/files.py",
        "my models/tiny/tokenizer_config.json",
    ],
)
def test_an_edit_reruns_what_it_can_change_and_no_more(tiny_run, edited):
    clone, overlay = tiny_run
    is_model = edited.endswith(".json")
    expected = downstream(clone, (lambda name: name.startswith("studies/tiny/")) if is_model else (), edited)
    path = clone.folder / edited
    whole = path.read_text()
    if path.suffix == ".json":
        path.write_text(whole.replace("{", "{ ", 1))
    else:
        path.write_text(whole + ("\nEDITED = True\n" if path.suffix == ".py" else "\n"))
    try:
        planned = jobs(clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name))
    finally:
        path.write_text(whole)
    planned = {rule: count for rule, count in planned.items() if rule not in ("all", "default", "total")}
    assert planned == expected


@pytest.mark.parametrize(
    "edited", ["artifacts/parquet.py", "models/language_model.py", "studies/anchors/saliency/compute.py", "studies/study.py"]
)
def test_an_edit_of_words_reruns_nothing(tiny_run, edited):
    clone, overlay = tiny_run
    path = clone.folder / "src/icl_lens" / edited
    whole = path.read_text()
    assert whole.startswith('"""')
    path.write_text('"""Other words. ' + whole[3:] + "\n# A comment.\n")
    try:
        done = clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name)
    finally:
        path.write_text(whole)
    assert "Nothing to be done" in done.stdout


def test_edits_taken_back_rerun_nothing(tiny_run):
    clone, overlay = tiny_run
    done = clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name)
    assert "Nothing to be done" in done.stdout


def test_what_an_edit_can_change_is_told_apart(tiny_run):
    clone, _ = tiny_run
    assert downstream(clone, (), "src/icl_lens/cli/commands.py") == {}
    assert downstream(clone, (), "notebooks/anchors/table_4.ipynb") == {"table": 1, "report": 1}
    saliency = downstream(clone, (), "src/icl_lens/studies/anchors/saliency/compute.py")
    assert saliency == {"saliency": 4, "figure": 3, "report": 1}  # 2 tasks, 1 and 2 shots; figures 3, 7 and 9
    everything = downstream(clone, (), "src/icl_lens/prompts/protocol.py")
    for study in ("icl", "isolation", "diagnosis", "reweighting", "components"):
        assert everything[study] == len(list((clone.folder / "results/studies").rglob(f"{study}.parquet"))) > 0
    assert everything["figure"] >= sum(not registry.items()[name].own_tasks for name in FIGURES)


def test_a_changed_setting_reruns_what_it_decides(tiny_run):
    clone, overlay = tiny_run
    done = clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name, "--config", "queries=4")
    planned = jobs(done)
    expected = downstream(clone, lambda name: name.startswith("prompts/") and not name.endswith("/paired.parquet"))
    assert {rule: planned[rule] for rule in ("icl", "figure")} == {rule: expected[rule] for rule in ("icl", "figure")}
    assert "corpora" not in planned


def test_a_changed_setting_of_one_study_reruns_that_study_alone(tiny_run):
    clone, overlay = tiny_run
    done = clone.snakemake("-n", "--cores", "2", "--configfile", overlay.name, "--config", "studies={isolation: {draws: 2}}")
    planned = jobs(done)
    assert (planned["isolation"], planned["figure"]) == (5, 4)  # figures 4, 8, 10 and 12
    assert "prompts" not in planned


def test_one_figure_is_a_target_of_its_own(tiny_run):
    clone, overlay = tiny_run
    planned = jobs(clone.snakemake("figure_7", "-n", "--cores", "1", "--configfile", overlay.name, "--config", "results=other"))
    assert planned == {"corpora": 1, "prompts": 1, "saliency": 1, "icl": 1, "figure": 1, "figure_7": 1, "total": 6}


@pytest.mark.parametrize(
    ("damaged", "also"),
    [
        ("prompts/trec/fresh-1shot.parquet", ["studies/tiny/trec/fresh-1shot/icl.parquet", "figures/figure_7.pdf"]),
        ("figures/figure_7.svg", ["figures/figure_7.json"]),
    ],
)
def test_what_audit_finds_it_repairs_and_the_same_command_makes_anew(tiny_run, damaged, also):
    clone, overlay = tiny_run
    results = clone.folder / "results"
    before = made(results)
    whole = (results / damaged).read_bytes()
    (results / damaged).write_bytes(whole[:-50])
    assert audit.audit(results, registry.schemas())[1]
    deleted = {path.relative_to(results).as_posix() for path in audit.repair(results, registry.schemas())}
    assert {damaged, *also} <= deleted
    assert "corpora/trec.parquet" not in deleted
    assert not audit.audit(results, registry.schemas())[1]
    done = clone.snakemake("--cores", "2", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    assert made(results) == before


def test_a_failed_figure_tells_its_reason_in_few_lines(tiny_run):
    clone, overlay = tiny_run
    table = clone.folder / "results/studies/tiny/trec/fresh-1shot/saliency.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-50])
    try:
        done = clone.snakemake("figure_7", "--cores", "1", "--configfile", overlay.name)
    finally:
        table.write_bytes(whole)
    assert done.returncode == 1
    assert "saliency.parquet is not a whole Parquet file (cut short or damaged?)" in done.stdout
    assert "Traceback" not in done.stdout
    assert len(done.stdout.splitlines()) < 100
    assert clone.snakemake("--cores", "2", "--configfile", overlay.name).returncode == 0


def test_a_failed_figure_does_not_take_the_report_with_it(tiny_run):
    clone, overlay = tiny_run
    results, notebook = clone.folder / "results", clone.folder / "notebooks/anchors/table_4.ipynb"
    command = ("--cores", "2", "--configfile", overlay.name)
    assert clone.snakemake(*command).returncode == 0  # earlier tests remade inputs of the report, but not the report
    whole, executed = notebook.read_text(), (results / "notebooks/table_4.ipynb").read_text()
    before = (results / "report/index.html").read_bytes()
    try:
        notebook.write_text(whole.replace("print(GROUP.item(item).title)", "raise ValueError('broken on purpose')"))
        done = clone.snakemake(*command)
    finally:
        notebook.write_text(whole)
    assert done.returncode == 1
    assert "index.html shows what was made; it says why these are missing: table_4." in done.stdout
    html = (results / "report/index.html").read_text()
    assert f"Incomplete: 1 of {len(SHOWN)} figures and tables missing" in html
    assert "<code>table_4</code>: ValueError: broken on purpose" in html
    assert html.count("<article ") == len(SHOWN) - 1
    assert 'id="walk-data"' in html
    faults = audit.audit(results, registry.schemas())[1]
    assert [fault.sentence.rpartition(": ")[2] for fault in faults] == ["the report is incomplete, table_4 missing from it"]
    # The same command makes the missing item and the complete page. A second run has nothing to do.
    assert clone.snakemake(*command).returncode == 0
    assert (results / "notebooks/table_4.ipynb").read_text() == executed
    assert (results / "report/index.html").read_bytes() == before
    assert not audit.audit(results, registry.schemas())[1]
    assert "Nothing to be done" in clone.snakemake(*command).stdout


@pytest.mark.long
def test_a_killed_run_goes_on_with_the_same_command(tiny_run):
    clone, overlay = tiny_run
    arguments = ["figure_7", "--cores", "1", "--configfile", overlay.name, "--config", "results=killed"]
    log = clone.folder / "killed/logs/studies/tiny/trec/fresh-1shot"
    with clone.start(*arguments) as process:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # wait until a model job is running
        os.killpg(process.pid, signal.SIGKILL)
    assert log.exists()
    assert not (clone.folder / "killed/figures/figure_7.pdf").exists()
    done = clone.snakemake(*arguments)
    assert done.returncode == 0, done.stdout
    assert (clone.folder / "killed/figures/figure_7.pdf").is_file()


def refused(clone, *arguments):
    """Return the last line of a run that must fail without a traceback."""
    done = clone.snakemake("-n", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "File " not in done.stdout
    return done.stdout.strip().splitlines()[-1]


def test_a_config_that_cannot_be_is_one_sentence(clone):
    assert refused(clone, "--config", "querries=3").startswith("config: unknown key 'querries' (= 3); did you mean 'queries'?")
    overlay = clone.config("no-model", models=[{"name": "x", "path": "no/such/folder"}])
    assert refused(clone, "--configfile", overlay.name) == "model folder no/such/folder does not exist"


def test_a_missing_data_file_is_one_sentence(clone, tmp_path):
    overlay = clone.config("no-data", data={"source": "files", "root": str(tmp_path)}, tasks=["sst2"])
    sentence = refused(clone, "--configfile", overlay.name)
    assert sentence.startswith(f"task sst2: its train file {tmp_path}/sst2/train.tsv does not exist; put it there")


def test_a_malformed_data_file_is_told_by_the_failed_run(tiny_run, tmp_path):
    clone, overlay = tiny_run
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2/train.tsv").write_text("sentence\tlabel\nfine\t1\nno label here\n")
    (tmp_path / "sst2/dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    bad = clone.config("bad-data", results="bad", data={"source": "files", "root": str(tmp_path)}, tasks=["sst2"])
    done = clone.snakemake("figure_3", "--cores", "1", "--configfile", overlay.name, bad.name)
    assert done.returncode == 1
    assert "line 3: expected 2 tab-separated fields (sentence, label), found 1" in done.stdout
    assert not (clone.folder / "bad/corpora/sst2.parquet").exists()


def test_an_item_asked_for_without_any_of_its_tasks_is_one_sentence(clone, tiny_run):
    _, overlay = tiny_run
    sentence = refused(clone, "figure_3", "--configfile", overlay.name, "--config", "tasks=[trec]")
    assert sentence.startswith("figure_3 shows sst2, agnews, and none of them is in tasks")


def test_an_item_without_any_of_its_tasks_is_no_target_of_all(clone, tiny_run):
    _, overlay = tiny_run
    planned = jobs(
        clone.snakemake("-n", "--configfile", overlay.name, "--config", "results=one", "tasks=[trec]", "groups=[anchors]")
    )
    assert planned["figure"] == 11  # figure 3 shows SST-2 and AGNews, 12 and 13 show SST-2 under labels A and B


def test_the_papers_run_is_planned_with_the_jobs_that_snakemake_would_run(clone):
    overlay = "config/paper.yaml"
    dry = jobs(clone.snakemake("-n", "--configfile", overlay))
    with clone.start("--summary", "--configfile", overlay, "--quiet", "all") as process:
        summary, _ = process.communicate(timeout=60)
    rows = [line for line in summary.splitlines() if "\t" in line]
    counts, studies = plan.jobs(rows)
    assert counts == {rule: count for rule, count in dry.items() if rule not in ("default", "all", "total")}
    paper = parse.load(clone.folder / "config.yaml", clone.folder / overlay)
    assert all(plan.estimate(paper, path).hours > 0 for path in studies)
    assert not list((clone.folder / "downloads").rglob("*gpt2-xl*")), "a plan fetches nothing"


def test_figures_from_the_real_files(tiny_run, shared_data):
    clone, overlay = tiny_run
    real = clone.config(
        "real",
        results="real",
        data={"source": "files", "root": str(shared_data), "files": {"agnews": {"train": "agnews/train_subset.csv"}}},
        tasks=["sst2", "trec", "agnews"],
        seeds=[42],
        queries=2,
    )
    done = clone.snakemake("figure_3", "--cores", "2", "--configfile", "config/local-data.yaml", overlay.name, real.name)
    assert done.returncode == 0, done.stdout
    svg = (clone.folder / "real/figures/figure_3.svg").read_text()
    assert "untrained" in svg
    assert "built-in" not in svg
    prompts, about = artifacts.read(clone.folder / "real/prompts/sst2/fresh-1shot.parquet", "prompts")
    assert about["corpus"] == {"source": "files"}
    assert " \nSentiment:" in prompts["text"][0], "the blank at the end of a review is kept"


def test_snakemakes_own_report_holds_every_item_with_its_caption(tiny_run):
    clone, overlay = tiny_run
    done = clone.snakemake("--report", "own.html", "--configfile", overlay.name)
    assert done.returncode == 0, done.stdout
    page = (clone.folder / "own.html").read_text()
    for figure in FIGURES:
        assert f"{figure}.svg" in page
    assert "Templates and label words of each task" in page
    assert (clone.folder / "own.html").stat().st_size > 1_000_000


def test_the_report_opens_in_a_browser_and_shows_every_item(tiny_run):
    clone, _ = tiny_run
    with opened(clone.folder / "results/report/index.html") as driver:
        pictures = driver.find_elements("css selector", "#items figure img")
        assert len(pictures) == len(FIGURES)
        assert all(driver.execute_script("arguments[0].loading = 'eager'; return arguments[0].alt", p) for p in pictures)
        rows = driver.find_elements("css selector", "#claims tbody tr")
        assert len(rows) == sum(len(claims.load(path).claims) for path in CLAIMS)
        assert len(driver.find_elements("css selector", "#walk-task option")) == 2
        assert complaints(driver) == []
