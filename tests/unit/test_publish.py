"""Tests of the published page of a run.

The page has the numbers of the run and quotes no text of a data set. The command writes all files or none.
"""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from icl_lens.artifacts import hashes
from icl_lens.artifacts.notebooks import write_record
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.report import publish, replicates
from icl_lens.report.claims import load
from icl_lens.studies import registry
from icl_lens.studies.anchors.reweighting import summary as reweighting_summary
from icl_lens.studies.anchors.reweighting.study import METHODS
from icl_lens.studies.anchors.saliency import summary as saliency_summary
from tests import artifacts

from ..conftest import REPOSITORY

PAGE = REPOSITORY / "src/icl_lens/resources/publish"
MARKER = "a text of the data set that nobody may quote"
SEEDS = [42, 43, 44]
TASK = {"name": "sst2", "title": "SST-2", "template": "{text}{label}", "label_words": [" Negative", " Positive"]}
MODEL = {"name": "m", "family": "gemma3_text", "layers": 4, "parameters": 1_234_567, "gguf": {"quantisation": "Q4_K_M"}}
CORPUS = {"source": "files", "subsets": {"train": {"texts": 2, "published": 67_349}}}


def write_table(results, name, kind, rows, inputs=(), **more):
    read = {path: hashes.file_hash(results / path) for path in inputs}
    about = artifacts.describe(kind, "icl_lens.artifacts.parquet", read, {}, SEEDS, **({"corpus": CORPUS} | more))
    artifacts.write(results / name, pd.DataFrame(rows), about)


def study(results, name, rows, of):
    """Write the table of a study with twelve prompts and return its path."""
    observed = {
        "prompts": 12,
        "untrained": False,
        "left_out": 0,
        "unknown_tokens": 0.0,
        "next_token_loss": 3.5,
        "uniform_loss": 8.6,
    }
    path = f"studies/m/sst2/{of}/{name}.parquet"
    more = {"model": MODEL, "dtype": "float32", "device": "cpu", "task": TASK, "observed": observed}
    write_table(results, path, name, rows, ["corpora/sst2.parquet"], **more)
    return path


def recorded(results, item, csv, inputs, **others):
    """Write the files of an item, with the record that the workflow writes."""
    kind = "figures" if item.startswith("figure") else "tables"
    (results / kind).mkdir(exist_ok=True)
    replicates.without(csv).to_csv(results / kind / f"{item}.csv", index=False)
    for ending, content in others.items():
        (results / kind / f"{item}.{ending}").write_text(content)
    outputs = [results / kind / f"{item}.{ending}" for ending in ("csv", *others)]
    write_record(results / kind / f"{item}.json", [results / path for path in inputs], outputs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return results with Figure 3 and Table 1 of one task, drawn at random from seed 0."""
    results, draw = tmp_path_factory.mktemp("publish") / "real", np.random.default_rng(0)
    corpus = [{"split": split, "index": i, "text": MARKER, "label": i} for split in ("train", "test") for i in (0, 1)]
    write_table(results, "corpora/sst2.parquet", "corpora", corpus)
    keys = [{"model": "m", "task": "sst2", "seed": seed, "prompt_id": 10 * seed + n} for seed in SEEDS for n in range(4)]
    fresh, shared = ([{**key, "set": name} for key in keys] for name in ("fresh-1shot", "shared-1shot"))
    # S_wp is largest in the first layer and S_pq in the others. The values vary over seeds.
    flow = [
        {**k, "layer": n, **artifacts.saliency_columns(w + 0.1 * (k["seed"] - 43), 0.7 - w, draw.random() / 5)}
        for k in fresh
        for n, w in enumerate((0.6, 0.1, 0.1, 0.1))
    ]
    answers = [
        {**k, "gold": i % 2, "prediction": int(i % 3 > 0), "class_log_probs": [-1.0, -1.0], "top_tokens": [0]}
        for i, k in enumerate(fresh)
    ]
    inputs = [study(results, "saliency", flow, "fresh-1shot"), study(results, "icl", answers, "fresh-1shot")]
    shown = saliency_summary.summarise(artifacts.read(results / inputs[0], "saliency")[0]).assign(title="SST-2")
    recorded(results, "figure_3", shown, inputs, png="a picture", svg="<svg/>")
    fixed = {"shots": 1, "correct": True, "class_log_probs": [0.0, 0.0]}
    weighed = [
        {**k, **fixed, "method": method, "gold": i % 2, "prediction": int(draw.integers(2))}
        for i, k in enumerate(shared)
        for method in METHODS
    ]
    inputs = [study(results, "reweighting", weighed, "shared-1shot")]
    table = reweighting_summary.summarise(artifacts.read(results / inputs[0], "reweighting")[0], {"sst2": 2})
    table = table.drop(columns="absent").assign(task=table["task"].replace("sst2", "SST-2"))
    recorded(results, "table_1", table, inputs, md="| a |\n|---|\n| b |\n\nA note.\n", tex="")
    return results


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    """Return a folder with the paper's claims about both items."""
    paper = yaml.safe_load((REPOSITORY / "src/icl_lens/resources/claims/anchors.yaml").read_text())
    paper["claims"] = [claim for claim in paper["claims"] if claim["item"] in ("figure_3", "table_1")]
    folder = tmp_path_factory.mktemp("claims")
    (folder / "anchors.yaml").write_text(json.dumps(paper))  # JSON is YAML
    return folder


def command(results, docs, claims, *options):
    arguments = ["publish", results, docs, "--claims", claims, "--page", PAGE, *options]
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def docs(made, claims, tmp_path_factory):
    """Return the folder that the command writes."""
    docs = tmp_path_factory.mktemp("written") / "docs"
    assert command(made, docs, claims, "--name", "gemma") == 0
    return docs


@pytest.fixture
def results(made, tmp_path):
    """Return a copy of the results that a test can damage."""
    return shutil.copytree(made, tmp_path / "real")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(results, tmp_path, claims, match, name="gemma"):
    """Check that the command raises an error and writes nothing."""
    results = results if isinstance(results, list) else [results]
    with pytest.raises(InputError, match=match):
        publish.write(results, tmp_path / "docs", name, sorted(claims.iterdir()), PAGE)
    assert not (tmp_path / "docs").exists() or list((tmp_path / "docs").iterdir()) == []


def test_it_publishes_the_numbers_of_the_run(made, docs):
    results, files = made, contents(docs)
    assert set(files) == {
        "gemma.md",
        "gemma-scorecard.csv",
        *(f"gemma/{name}" for name in ("figure_3.png", "figure_3.csv", "table_1.csv", "inputs.json")),
    }
    page = (docs / "gemma.md").read_text()
    scorecard = pd.read_csv(docs / "gemma-scorecard.csv").set_index("claim")
    # The files contain no text of the data set.
    assert not [name for name, content in contents(docs).items() if MARKER.encode() in content]
    assert "(gemma/figure_3.png)" in page
    assert (docs / "gemma/figure_3.png").read_text() == "a picture"
    # The page begins with the model and its weights, the data and the number of missing texts, the seeds and the baseline.
    assert "m: Q4\\_K\\_M weights, dequantised." in page
    assert "| gguf quantisation | Q4\\_K\\_M |" in page
    assert "1,234,567" in page
    assert "train 2 of 67,349" in page
    assert "SST-2: demonstrations come from a subset of the training split (2 of 67,349 texts)." in page
    assert "| SST-2 | fresh-1shot | 0.500 " in page
    assert "torch " in page
    # A claim has an interval and a spread over seeds. The claim shallow-gather is about layer 0 of 4.
    shown = saliency_summary.summarise(artifacts.read(results / "studies/m/sst2/fresh-1shot/saliency.parquet", "saliency")[0])
    cell = shown[(shown["metric"] == "s_wp - s_pq") & (shown["layer"] == 0)].iloc[0]
    row = scorecard.loc["shallow-gather"]
    assert (row["verdict"], row["prompts"], row["seeds"], row["seeds_obeying"]) == ("holds", 12, 3, 3)
    np.testing.assert_allclose(row[["value", "low", "high"]].astype(float), cell[["share", "low", "high"]].astype(float))
    spread = row[["seed_lowest", "seed_highest"]].astype(float)
    np.testing.assert_allclose(spread, cell[["lowest_seed", "highest_seed"]].astype(float))
    section = page.partition("## Figure 3")[2].partition("## Table 1")[0]
    assert "**Holds.** *In shallow layers S\\_wp, the flow from the text to the label words, is higher than S\\_pq" in section
    assert f"{cell['share']:.3f} \\[{cell['low']:.3f}, {cell['high']:.3f}\\]" in section
    # The page shows the paper's number, which is of another model, next to ours. It does not judge ours by that number.
    row = scorecard.loc["table-1-vanilla-sst-2"]
    assert (row["verdict"], row["paper_value"]) == ("not testable", "0.6128")
    numbers = pd.read_csv(docs / "gemma/table_1.csv").set_index(["task", "method", "measure"])
    assert numbers.loc[("SST-2", "vanilla", "accuracy"), "paper: gpt2-xl"] == 0.6128
    # Accuracy has balanced accuracy with its interval and the majority baseline beside it.
    shown = numbers.loc[("SST-2", "vanilla", "balanced_accuracy")]
    assert shown[["value", "low", "high", "majority baseline"]].notna().all()
    assert "| balanced accuracy \\[interval\\] |" in page
    assert row["value"] == numbers.loc[("SST-2", "vanilla", "accuracy"), "value"]
    assert "| SST-2 | few\\_shot | 1 |" in page
    assert "A note." in page
    # The counts are at the top, and the claims that are not testable are folded away behind their number.
    untestable = int((scorecard["verdict"] == "not testable").sum())
    top, _, folded = page.partition(f"<details><summary>{untestable} claims not testable with this run</summary>")
    assert top.index("## Scorecard") < top.index("**Of ") < top.index("| paper | holds | holds weakly | undecided |")
    assert "table-1-vanilla-sst-2" not in top
    assert "| table-1-vanilla-sst-2 | Table 1 | 0.6128 |" in folded.partition("</details>")[0]
    assert "run `make null`" in top
    assert not scorecard["papers_own_model"].any()
    assert "Not part of this run: Figure 4;" in page
    # The record lists the files that were read and written.
    record = json.loads((docs / "gemma/inputs.json").read_text())
    assert {"corpora/sst2.parquet", "figures/figure_3.csv"} <= set(record["inputs"]["real"])
    for name, digest in record["inputs"]["real"].items():
        assert hashes.file_hash(results / name) == digest
    assert set(record["outputs"]) == set(files) - {"gemma/inputs.json"}
    for name, digest in record["outputs"].items():
        assert hashes.file_hash(docs / name) == digest
    assert str(results.parent) not in page + json.dumps(record)


def test_check_finds_exactly_what_differs(made, docs, claims, tmp_path, capsys):
    assert command(made, docs, claims, "--name", "gemma", "--check") == 0, "the same run gives the same bytes"
    changed = shutil.copytree(docs, tmp_path / "docs")
    (changed / "gemma.md").write_text("changed")
    (changed / "gemma/figure_3.csv").unlink()
    (changed / "gemma/old.csv").write_text("")
    before = contents(changed)
    capsys.readouterr()
    assert command(made, changed, claims, "--name", "gemma", "--check") == 1
    assert re.findall(r"(\S+) (is missing|differs|is no longer)", capsys.readouterr().out) == [
        (f"{changed}/gemma/figure_3.csv", "is missing"),
        (f"{changed}/gemma.md", "differs"),
        (f"{changed}/gemma/old.csv", "is no longer"),
    ]
    assert contents(changed) == before


def test_results_that_fail_the_audit_are_not_published(results, claims, tmp_path):
    (results / "figures/figure_3.png").write_text("another picture")
    refused(results, tmp_path, claims, r"real does not pass `icl-lens audit`.*figure_3.png has changed since")


def test_a_text_of_the_data_set_is_never_published(results, claims, tmp_path, monkeypatch):
    csv = pd.read_csv(results / "figures/figure_3.csv").assign(side=f"x {MARKER}")
    recorded(results, "figure_3", csv, ["studies/m/sst2/fresh-1shot/saliency.parquet"], png="a picture")
    monkeypatch.setitem(publish._NUMBERS, "figure_3", publish.Numbers(("side", "layer"), {"share": ("low", "high")}))
    refused(results, tmp_path, claims, "would quote a text of sst2.parquet, so nothing is published")


def test_a_folder_of_somebody_else_is_not_replaced(docs, tmp_path):
    publish._require_only_own_files(docs / "gemma")
    other = shutil.copytree(docs / "gemma", tmp_path / "gemma")
    (other / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"did not write \(gemma/mine.txt\)"):
        publish._require_only_own_files(other)


def test_items_are_found_in_whichever_folder_has_them(results, claims, tmp_path):
    companions = shutil.copytree(results, tmp_path / "companions")
    for path in [*(results / "tables").iterdir(), *(companions / "figures").iterdir()]:
        path.unlink()
    found = {name: publish._item([results, companions], name) for name in ("figure_3", "table_1", "table_2")}
    assert {name: item and item.results.name for name, item in found.items()} == {
        "figure_3": "real",
        "table_1": "companions",
        "table_2": None,
    }
    copy = shutil.copytree(companions, tmp_path / "elsewhere/companions")
    refused([companions, copy], tmp_path, claims, "two results folders are named companions")


def test_a_prompt_set_of_two_folders_has_an_accuracy_in_each(results, tmp_path):
    other = shutil.copytree(results, tmp_path / "companions")
    path = other / "studies/m/sst2/fresh-1shot/icl.parquet"
    table, about = artifacts.read(path, "icl")
    artifacts.write(path, table[table["seed"] == SEEDS[0]], about)
    items = {"figure_3": publish._item([results], "figure_3"), "figure_7": publish._item([other], "figure_3")}
    shown = publish._accuracy_table(items, list(items))
    assert shown["prompts"].tolist() == [12, 4]


def test_a_claim_about_a_column_that_seeds_have_no_values_of_has_no_spread(results, claims, monkeypatch):
    paper, items = load(claims / "anchors.yaml"), {"figure_3": publish._item([results], "figure_3")}

    def seeds():
        return {verdict.seeds for verdict in publish._verdicts(paper, items) if verdict.measured}

    assert seeds() == {len(SEEDS)}
    monkeypatch.setattr(publish.seed_spread, "columns", lambda item: ())
    assert seeds() == {0}


def test_the_name_is_the_models_unless_there_are_several(results, claims, tmp_path):
    refused(results, tmp_path, claims, "--name a/b is not a valid file name", name="a/b")
    path = results / "studies/m/sst2/shared-1shot/reweighting.parquet"
    table, about = artifacts.read(path, "reweighting")
    artifacts.write(path, table, about | {"model": MODEL | {"name": "other"}})
    outputs = [results / f"tables/table_1.{ending}" for ending in ("csv", "md", "tex")]
    write_record(results / "tables/table_1.json", [path], outputs)
    refused(results, tmp_path, claims, r"the results contain several models \(m, other\); pass --name", name=None)


def test_the_command_says_in_one_sentence_what_it_lacks(results, claims, tmp_path, capsys):
    for name in ("figures", "tables"):
        shutil.rmtree(results / name)
    for folder, said in ((tmp_path, "contains no claims file"), (claims, "no figure or table to publish")):
        assert command(results, tmp_path / "docs", folder) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_the_committed_page_is_what_the_run_at_hand_gives():
    """Compare the page docs/gemma.md with the runs in results/ that it was written from.

    The test is skipped where these runs are missing.
    """
    runs = [REPOSITORY / "results" / name for name in ("gemma-real", "gemma-real-interventions", "gemma-real-companions")]
    missing = [run.name for run in runs if not run.is_dir()]
    if missing:
        pytest.skip(f"not in results: {', '.join(missing)}; config/gemma-real.yaml says how to make them")
    files = [REPOSITORY / f"src/icl_lens/resources/claims/{paper}.yaml" for paper in registry.papers()]
    try:
        assert publish.check(runs, REPOSITORY / "docs", "gemma", files, PAGE) == []
    except InputError as error:
        if "icl-lens audit" not in str(error):
            raise
        pytest.skip(f"the results at hand are not those of the installed code: {error}")
