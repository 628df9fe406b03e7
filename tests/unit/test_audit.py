"""Tests of the audit: each kind of damage to a results folder gives a one-line error, and an intact folder gives none."""

import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icl_lens.artifacts import hashes, parquet
from icl_lens.artifacts.code import SCHEME
from icl_lens.results import audit, inputs
from icl_lens.studies import registry
from tests import artifacts

KEYS = {"model": "m", "task": "sst2", "set": "shared-1shot"}
STUDY = "studies/m/sst2/shared-1shot/saliency.parquet"


def write(results, name, kind, rows, inputs=(), **changed):
    read = {path: hashes.file_hash(results / path) for path in inputs}
    about = artifacts.describe(
        kind, "icl_lens.studies.anchors.saliency.compute", read, {}, [7], observed={"prompts": 3, "left_out": 0}
    )
    artifacts.write(results / name, pd.DataFrame(rows), about | changed)


def rows():
    values = artifacts.saliency_columns(1.0, 2.0, 3.0)
    return [{**KEYS, "seed": 7, "prompt_id": i, "layer": layer, **values} for i in range(3) for layer in range(2)]


@pytest.fixture
def results(tmp_path):
    """An intact results folder with a corpus, a study of this corpus and a figure of this study."""
    results = tmp_path / "results"
    write(results, "corpora/sst2.parquet", "corpora", [{"split": "train", "index": 0, "text": "a", "label": 0}])
    write(results, STUDY, "saliency", rows(), ["corpora/sst2.parquet"])
    figure = {}
    for ending in ("pdf", "svg", "png", "csv"):
        (results / "figures").mkdir(exist_ok=True)
        (results / f"figures/figure_3.{ending}").write_text(ending)
        figure[f"figures/figure_3.{ending}"] = hashes.file_hash(results / f"figures/figure_3.{ending}")
    record = {"inputs": {STUDY: hashes.file_hash(results / STUDY)}, "outputs": figure}
    (results / "figures/figure_3.json").write_text(json.dumps(record))
    for name in ("logs/studies/x.log", "benchmarks/studies/x.jsonl", "report/index.html", "another/corpora/of_it.txt"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("")
    page = {"report/index.html": hashes.file_hash(results / "report/index.html")}
    read = {"figures/figure_3.json": hashes.file_hash(results / "figures/figure_3.json")}
    (results / "report/index.json").write_text(json.dumps({"inputs": read, "outputs": page}))
    return results


def test_nothing_is_found_where_nothing_is_wrong_not_even_in_a_copy_elsewhere(results, tmp_path):
    assert audit.audit(results, registry.schemas()) == (4, [])
    shutil.copytree(results, tmp_path / "a copy")
    assert audit.audit(tmp_path / "a copy", registry.schemas()) == (4, [])


def test_each_file_and_each_code_is_hashed_once_however_many_tables_name_it(results, monkeypatch):
    models = [f"m{number}" for number in range(5)]
    for model in models:
        table = [{**row, "model": model} for row in rows()]
        write(results, STUDY.replace("/m/", f"/{model}/"), "saliency", table, ["corpora/sst2.parquet"])
    hashed, modules = Counter(), Counter()
    monkeypatch.setattr(hashes, "file_hash", lambda path, whole=hashes.file_hash: hashed.update([path]) or whole(path))
    monkeypatch.setattr(inputs, "code_hash", lambda *names, whole=inputs.code_hash: modules.update([names]) or whole(*names))
    assert audit.audit(results, registry.schemas()) == (4 + len(models), [])
    assert hashed[results / "corpora/sst2.parquet"] == 1
    assert set(hashed.values()) == {1}
    assert set(modules.values()) == {1}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def rewrite(change, **more):
    """Return a function that changes a study's rows, keeps its metadata and writes valid page checksums.

    Args:
        change: Changes the rows.
        more: ``digest``: the digest of the rows and metadata to write; by default, there is none.
    """

    def damage(results):
        schema = pq.read_schema(results / STUDY)
        table = change(pq.read_table(results / STUDY).to_pandas())
        if more:
            schema = schema.with_metadata({**schema.metadata, parquet.DIGEST_KEY: more["digest"]})
        arrow = parquet.pa.Table.from_pandas(table, schema=schema, preserve_index=False)
        pq.write_table(arrow, results / STUDY, write_page_checksum=True)

    return damage


def set_cell(value):
    def change(table):
        table.loc[2, "s_pq"] = value
        return table

    return change


DAMAGES = {
    "a byte of a table flipped": (lambda r: flip(r / STUDY), "not a valid Parquet file|has changed since"),
    "a table cut short": (lambda r: cut(r / STUDY), "not a valid Parquet file"),
    "a table deleted": (lambda r: (r / STUDY).unlink(), f"{STUDY} is missing"),
    "an input made anew otherwise": (
        lambda r: write(r, "corpora/sst2.parquet", "corpora", [{"split": "train", "index": 0, "text": "b", "label": 0}]),
        "corpora/sst2.parquet has changed since",
    ),
    "an input deleted": (lambda r: (r / "corpora/sst2.parquet").unlink(), "corpora/sst2.parquet is missing"),
    "a row twice": (rewrite(lambda t: pd.concat([t, t.tail(1)])), "duplicate rows: 1"),
    "a row missing": (rewrite(lambda t: t.drop(index=3)), "1 prompts have fewer rows than the others, 1 among them"),
    "a prompt missing": (rewrite(lambda t: t[t["prompt_id"] != 1]), "2 prompts have rows, but 3 prompts were run"),
    "an infinite number": (rewrite(set_cell(np.inf)), "non-finite or missing numbers in column s_pq"),
    "an empty cell": (rewrite(set_cell(np.nan)), "has empty cells in column s_pq"),
    "made by other code": (
        lambda r: write(r, STUDY, "saliency", rows(), ["corpora/sst2.parquet"], code=SCHEME + "0" * 64),
        r"the code that made it \(icl_lens.studies.anchors.saliency.compute\) differs from the installed code",
    ),
    "another kind under its name": (
        lambda r: shutil.copy(r / "corpora/sst2.parquet", r / STUDY),
        "is a corpora table; expected a saliency table",
    ),
    "a table that no study makes": (
        lambda r: shutil.copy(r / STUDY, r / "studies/m/sst2/shared-1shot/feelings.parquet"),
        "unknown kind of table, no study is named feelings",
    ),
    "a picture changed": (lambda r: (r / "figures/figure_3.png").write_text("?"), "figures/figure_3.png has changed since"),
    "a picture deleted": (lambda r: (r / "figures/figure_3.svg").unlink(), "figures/figure_3.svg is missing"),
    "the report changed": (
        lambda r: (r / "report/index.html").write_text("All claims hold."),
        "report/index.html has changed since",
    ),
    "a figure made anew after the report": (
        lambda r: (r / "figures/figure_3.json").write_text((r / "figures/figure_3.json").read_text() + " "),
        "report/index.json: stale, because figures/figure_3.json has changed since",
    ),
    "a record damaged": (
        lambda r: (r / "figures/figure_3.json").write_text("{}"),
        "not a valid record of inputs and outputs",
    ),
    "tensors without their table": (
        lambda r: (r / "studies/m/sst2/shared-1shot/reweighting.safetensors").write_bytes(b""),
        "its table is missing",
    ),
    "a number changed, with correct page checksums": (
        lambda r: rewrite(set_cell(2.5), digest=b"0")(r),
        f"{STUDY} was changed after icl-lens wrote it",
    ),
    "a table written anew by another program": (lambda r: rewrite(set_cell(2.5))(r), f"{STUDY}: no checksum of its rows"),
    "metadata of another form": (
        lambda r: write(r, STUDY, "saliency", rows(), inputs=["corpora/sst2.parquet"], observed=[]),
        f"{STUDY}: invalid provenance in the metadata",
    ),
    "a study under the name of another task": (
        lambda r: (r / "studies/m/sst2").rename(r / "studies/m/trec"),
        r"studies/m/trec/shared-1shot/saliency.parquet: task is sst2, but the path of the file has trec",
    ),
    "a record changed": (
        lambda r: (r / "figures/figure_3.json").write_text(json.dumps({"inputs": {}, "outputs": {}, "digest": "0"})),
        "figures/figure_3.json: the record was changed after icl-lens wrote it",
    ),
    "a record deleted": (
        lambda r: ((r / "figures/figure_3.json").unlink(), (r / "notebooks").mkdir(), (r / "notebooks/figure_3.ipynb").touch()),
        r"figure_3.json is missing, so that the inputs of .*figure_3.png.* are unknown",
    ),
    "the record of the report deleted": (lambda r: (r / "report/index.json").unlink(), "report/index.json is missing"),
    "a picture that no item draws": (lambda r: (r / "figures/old.png").touch(), "figures/old.png: unexpected file"),
    "a folder in place of a picture": (
        lambda r: ((r / "figures/figure_3.png").unlink(), (r / "figures/figure_3.png").mkdir()),
        "figures/figure_3.png is a folder, not a file",
    ),
    "a record that names files elsewhere": (
        lambda r: (r / "figures/figure_3.json").write_text(json.dumps({"inputs": {}, "outputs": {"../thesis.tex": "0"}})),
        "figure_3.json: not a valid record",
    ),
    "a file that no rule makes": (lambda r: (r / "figures/notes.md").write_text(""), "notes.md: unexpected file"),
    "a table in the wrong folder": (
        lambda r: shutil.copy(r / STUDY, r / "saliency.parquet"),
        "saliency.parquet: unexpected file",
    ),
}


def test_a_repair_deletes_nothing_outside_the_folder_and_no_folder_with_files(results):
    (results.parent / "thesis.tex").write_text("years of work")
    (results / "figures/figure_3.json").write_text(json.dumps({"inputs": {}, "outputs": {"../thesis.tex": "0"}}))
    (results / STUDY).unlink()
    (results / STUDY).mkdir()
    (results / STUDY / "notes.md").touch()
    audit.repair(results, registry.schemas())
    assert (results.parent / "thesis.tex").exists()
    assert (results / STUDY / "notes.md").exists()


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_found_and_said_in_one_sentence(results, damage, said):
    damage(results)
    _, faults = audit.audit(results, registry.schemas())
    sentences = "\n".join(fault.sentence for fault in faults)
    assert re.search(said, sentences), sentences
    assert all("\n" not in fault.sentence for fault in faults)


def test_the_same_method_under_two_templates_is_two_rows(results):
    template = {
        "method": "icl",
        "labels": 4,
        "gold": 0,
        "prediction": 1,
        "seed": 7,
        "prompt_id": 0,
        **KEYS,
        "set": "labelled-24",
    }
    table = [{**template, "template": name} for name in ("f1", "f2")]
    write(results, "studies/m/sst2/labelled-24/components.parquet", "components", table, ["corpora/sst2.parquet"])
    assert audit.audit(results, registry.schemas()) == (5, [])


def test_every_kind_of_table_has_keys_that_tell_its_rows_apart():
    for schema in registry.schemas():
        row = {name: [[1]] if pa.types.is_list(kind) else [1] for name, kind in schema.columns.items()}
        assert list(audit._row_messages(schema, pd.DataFrame(row), {"observed": {"prompts": 1}})) == []
        twice = list(audit._row_messages(schema, pd.DataFrame(row).loc[[0, 0]], {"observed": {"prompts": 1}}))
        assert "duplicate rows: 1" in twice[0], schema.kind


def test_one_table_of_an_earlier_version_hides_no_other_fault(results):
    about = parquet.read_metadata(results / STUDY) | {"code": "0" * 64}
    artifacts.write(results / STUDY, pd.DataFrame(rows()), about)
    (results / "figures/notes.md").write_text("")
    said = "\n".join(fault.sentence for fault in audit.audit(results, registry.schemas())[1])
    assert "saliency.parquet: made by an earlier version of icl-lens" in said
    assert "notes.md: unexpected file" in said
    assert results / STUDY in audit.repair(results, registry.schemas())


def test_a_table_with_other_columns_than_the_schema_has_now_is_found(results):
    about = parquet.read_metadata(results / STUDY)
    artifacts.write(results / STUDY, pd.DataFrame(rows()), about | {"columns": {**about["columns"], "layer": "double"}})
    (fault, *_) = audit.audit(results, registry.schemas())[1]
    assert "its columns differ from those of saliency tables in this version" in fault.sentence


def test_a_table_of_a_study_outside_the_package_is_left_where_it_is(results):
    about = parquet.read_metadata(results / STUDY) | {"modules": ["icl_lens.studies.plugins.mood.compute"]}
    path = results / STUDY.replace("saliency", "mood")
    artifacts.write(path, pd.DataFrame(rows()), about)
    faults = audit.audit(results, registry.schemas())[1]
    assert "mood.parquet: the study is outside the package; pass its folder with --plugin" in faults[0].sentence
    assert path not in audit.repair(results, registry.schemas())


def test_a_folder_of_an_earlier_version_has_one_fault_and_nothing_of_it_is_deleted(results):
    about = parquet.read_metadata(results / STUDY)
    kept = {key: value for key, value in about.items() if key != "modules"}
    earlier = kept | {"code": "0" * 64, "module": "icl_lens.saliency"}
    for name, kind, table in (
        ("corpora/sst2.parquet", "corpora", [{"split": "train", "index": 0, "text": "a", "label": 0}]),
        (STUDY, "saliency", rows()),
    ):
        artifacts.write(results / name, pd.DataFrame(table), {**earlier, "schema": kind})
    _, faults = audit.audit(results, registry.schemas())
    (sentence,) = (fault.sentence for fault in faults)
    assert sentence.startswith(f"{results} was made by an earlier version of icl-lens")
    assert audit.repair(results, registry.schemas()) == []
    assert (results / STUDY).exists()
