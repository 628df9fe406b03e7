import numpy as np
import pandas as pd
import pytest

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.report import one_prompt
from icl_lens.studies import registry
from icl_lens.studies.anchors.flow.study import Settings
from icl_lens.studies.run import run
from tests import artifacts

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
