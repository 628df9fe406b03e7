import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.report import one_prompt
from icl_lens.studies import registry
from icl_lens.studies.anchors.flow.study import Settings
from icl_lens.studies.run import run
from tests import artifacts

from ..conftest import REPOSITORY
from ..prompts_table import prompts_table
from ..reference.saliency import information_flow


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """Return the folder with the results of the studies; the flow covers two prompts and drops no values."""
    root = tmp_path_factory.mktemp("results")
    task = {"name": "emoc", "title": "EmoC", "label_words": [" Others", " Happy", " Sad", " Angry"]}
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43], task=task)
    artifacts.write(root / "prompts" / "emoc.parquet", prompts_table("emoc", count=3), metadata)
    for study, settings in (("flow", Settings(seeds=1, prompts=2, least=0)), ("tokens", None), ("icl", None)):
        out = root / "studies" / f"{study}.parquet"
        run(registry.study(study), checkpoint, root / "prompts" / "emoc.parquet", out, settings=settings, device="cpu")
    return root / "studies"


def test_the_first_prompt_is_read_unless_another_is_asked_for(folder):
    first, other = one_prompt.read(folder), one_prompt.read(folder, 102)
    assert (first.answer["prompt_id"], other.answer["prompt_id"]) == (100, 102)
    assert first.layers == 3
    text = prompts_table("emoc", count=3)["text"]
    for one, written in ((first, text[0]), (other, text[2])):
        assert one.text(0, one.last + 1) == " ".join(written.split())
        # The test tokenizer splits these four label words into several tokens, so each word begins with the text of its anchor.
        for anchor, label in zip(one.anchors, one.tokens.loc[one.anchors, "class"], strict=True):
            assert one.label_words[label].startswith(one.words[anchor])
    assert r"\n" in first.words
    assert "\n" not in "".join(first.words)
    with pytest.raises(InputError, match=r"prompt 101 is not in .*flow\.parquet \(available: 100, 102\); set items"):
        one_prompt.read(folder, 101)


def test_sums_are_those_of_the_equations_and_add_up_to_one(folder, checkpoint, tokenizer):
    from icl_lens.models import loading

    network = loading.load(checkpoint, device="cpu").network
    prompt = tokenize(prompts_table("emoc", count=3), tokenizer)[2]
    flow = information_flow(network, prompt.ids.tolist(), prompt.label_ids.tolist(), prompt.gold)
    one = one_prompt.read(folder, 102)
    p, q = prompt.anchors.tolist(), prompt.last
    for layer, whole in enumerate(flow):
        i_l = np.tril(whole, -1) / np.tril(whole, -1).sum()
        found = one_prompt.sums(one, layer).set_index(["path", "demonstration"])["share"]
        for k, anchor in enumerate(p):
            start = p[k - 1] + 1 if k else 0
            assert found["own_text", k] == pytest.approx(i_l[anchor, start:anchor].sum(), abs=1e-5)
            assert found["other_text", k] == pytest.approx(i_l[anchor, :start].sum(), abs=1e-5)
            assert found["label_word", k] == pytest.approx(i_l[q, anchor], abs=1e-5)
        assert found["query", -1] == pytest.approx(i_l[q, p[-1] + 1 : q].sum(), abs=1e-5)
        assert found.sum() == pytest.approx(1, abs=1e-9)


def test_edges_are_told_apart_and_scaled_to_the_layers_largest(folder):
    one = one_prompt.read(folder)
    edges = one.in_layer(1)
    assert edges["relative"].is_monotonic_increasing
    assert edges["relative"].iloc[-1] == 1
    for row in edges.itertuples():
        into_label_word = row.query in one.anchors
        to_last = row.query == one.last and row.key in one.anchors
        assert row.kind == ("wp" if into_label_word else "pq" if to_last else "ww")
    assert set(edges["kind"]) == {"wp", "pq", "ww"}


def test_what_the_table_leaves_out_is_told_and_counts_as_rest(folder):
    whole = one_prompt.read(folder)
    largest = whole.edges.groupby("layer")["saliency"].transform("max")
    kept = whole.edges[whole.edges["saliency"] >= 0.2 * largest]
    some = one_prompt.OnePrompt(whole.tokens, kept, whole.answer, whole.about, whole.label_words)
    for layer in range(3):
        dropped = whole.edges[(whole.edges["layer"] == layer) & (whole.edges["saliency"] < 0.2 * largest)]
        assert some.omitted_share(layer) == pytest.approx(dropped["saliency"].sum() / dropped["layer_total"].iloc[0])
        assert whole.omitted_share(layer) == pytest.approx(0, abs=1e-9)
        assert one_prompt.sums(some, layer)["share"].sum() == pytest.approx(1)


def test_a_layer_along_which_nothing_flows_has_no_shares(folder):
    one = one_prompt.read(folder)
    nothing = one.edges.assign(saliency=0.0, layer_total=0.0)
    empty = one_prompt.OnePrompt(one.tokens, nothing, one.answer, one.about, one.label_words)
    assert (one_prompt.sums(empty, 0)["share"] == 0).all()
    assert (empty.in_layer(0)["relative"] == 0).all()
    assert empty.omitted_share(0) == 0


def test_a_text_keeps_the_blanks_between_tokens_whose_tokenizer_drops_them():
    tokens = pd.DataFrame({"token": ["a", "fine", "film", "."], "start": [0, 2, 7, 11], "end": [1, 6, 11, 12]})
    one = one_prompt.OnePrompt(tokens, tokens, tokens, {}, {})
    assert one.text(0, 4) == "a fine film."


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        (["shallow", "deep"], 6, {1: "shallow", 4: "deep"}),
        (["shallow", "deep"], 48, {9: "shallow", 38: "deep"}),
        (["shallow", "deep"], 3, {0: "shallow", 2: "deep"}),
        (["shallow", "deep"], 1, {0: "shallow"}),
        ([5, "deep", 4, 0], 6, {5: "", 4: "deep", 0: ""}),
    ],
)
def test_layers_are_named_by_their_depth_or_numbered(layers, depth, expected):
    assert one_prompt.layer_names(layers, depth) == expected
    assert list(one_prompt.layer_names(layers, depth)) == list(expected)


def test_a_layer_that_is_not_there_is_told():
    with pytest.raises(InputError, match=r"items\.\*\.layers: layer 6 does not exist; the model has layers 0 to 5"):
        one_prompt.layer_names([6], 6)


def long_prompt(tokens, anchors=()):
    classes = [0 if position in anchors else -1 for position in range(tokens)]
    table = pd.DataFrame({"position": range(tokens), "token": "a", "class": classes})
    return one_prompt.OnePrompt(table, table, table, {}, {})


def edges(*rows):
    return pd.DataFrame(rows, columns=["query", "key", "relative"])


def test_a_prompt_that_fits_is_drawn_whole():
    rows = long_prompt(30).rows(edges((3, 1, 1.0)), 30)
    assert rows.spans == [(place, place + 1) for place in range(30)]
    assert rows.left_out == {}


def test_runs_without_flow_are_left_out_and_counted():
    rows = long_prompt(1000, anchors=(400,)).rows(edges((500, 20, 0.1), (502, 400, 1.0)), 60)
    runs = [(0, 20), (21, 400), (401, 500), (503, 999)]
    shown = [(p, p + 1) for p in (20, 400, 500, 501, 502, 999)]
    assert rows.spans == sorted(runs + shown)  # a single token between two shown tokens is drawn
    assert rows.left_out == {rows.spans.index(run): run[1] - run[0] for run in runs}
    assert sum(rows.left_out.values()) + len(rows.of_position) == 1000
    words = rows.words(["a"] * 1000)
    assert words[:2] == ["… 20 tokens not shown …", "a"]


@pytest.mark.parametrize("most", [20, 76])
def test_the_rows_are_limited_and_keep_the_strongest_edges(most):
    draw = np.random.default_rng(0)
    table = edges(*((q, draw.integers(0, q), draw.random()) for q in draw.integers(1, 1394, 3000)))
    one = long_prompt(1394, anchors=range(10, 1390, 20))  # more label words than rows
    rows = one.rows(table, most)
    assert most - 3 <= len(rows.spans) <= most
    assert rows.spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in zip(rows.spans, rows.spans[1:], strict=False))
    assert rows.spans[-1] == (1393, 1394)
    places = rows.of_position
    assert sum(anchor in places for anchor in one.anchors) >= most // 5
    strongest = table.sort_values("relative").iloc[-1]
    assert {strongest["query"], strongest["key"]} <= set(places)


@pytest.fixture(scope="module")
def long_folder(checkpoint, tmp_path_factory):
    """Return the folder with the results of the studies for one prompt with 48 demonstrations."""
    root = tmp_path_factory.mktemp("long")
    words = [" World", " Sports", " Business", " Technology"]
    task = {"name": "agnews", "title": "AGNews", "label_words": words}
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42], task=task)
    artifacts.write(root / "prompts" / "agnews.parquet", prompts_table("agnews", count=1, shots=12), metadata)
    for study in ("flow", "tokens", "icl"):
        run(registry.study(study), checkpoint, root / "prompts" / "agnews.parquet", root / f"{study}.parquet", device="cpu")
    return root


@pytest.mark.parametrize(
    ("item", "marked"),
    [
        ("figure_1", r"\d+ tokens and \d+ of \d+ edges, with up to .* % of a layer's flow, are only in the CSV"),
        ("figure_2", r"the \d+ of 48 demonstrations with the largest shares are drawn; the CSV has all"),
    ],
)
def test_a_picture_of_a_long_prompt_is_limited_and_its_csv_is_whole(long_folder, tmp_path, monkeypatch, item, marked):
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {}
    for cell in json.loads((REPOSITORY / f"notebooks/anchors/{item}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= {"out": str(tmp_path / item), "studies": [str(long_folder)]}
    one = one_prompt.read(long_folder)
    assert one.last > 500
    width, height = Image.open(tmp_path / f"{item}.png").size
    assert height <= 1.5 * width, "one page"
    svg = (tmp_path / f"{item}.svg").read_text()
    assert len(svg) < 500_000
    assert re.search(marked, (tmp_path / f"{item}.txt").read_text())
    table = pd.read_csv(tmp_path / f"{item}.csv")
    if item == "figure_1":
        assert "tokens not shown" in svg
        assert len(table) == one.edges["layer"].isin(set(table["layer"])).sum()
        assert 0 < table["drawn"].sum() < len(table)
        assert not table.groupby("layer")["drawn"].sum().gt(500).any()
        assert table.loc[table.groupby("layer")["saliency"].idxmax(), "drawn"].all()
    else:
        assert table.groupby("layer")["share"].sum().tolist() == pytest.approx([1, 1])
        assert (table["path"] == "own_text").sum() == 2 * 48
