import pandas as pd
import pytest

from icl_lens.report import figures


def about(name="gpt2", source="files", untrained=False, left_out=0, unknown=0.0):
    observed = {"untrained": untrained, "left_out": left_out, "unknown_tokens": unknown, "prompts": 10}
    observed |= {"next_token_loss": 10.9, "uniform_loss": 10.8}
    return {"model": {"name": name}, "corpus": {"source": source}, "observed": observed}


@pytest.fixture
def drawing():
    def draw(stem):
        figures.use_style()
        figure, grid = figures.panels(1, 2)
        grid[0, 0].plot([0, 1], [0.2, 0.8], label="$S_{wp}$")
        grid[0, 0].legend()
        figures.annotate(figure, ["A note that is long enough to be wrapped. " * 8])
        figures.save_figure(figure, pd.DataFrame({"layer": [0, 1], "share": [0.2, 0.8]}), stem)

    return draw


def test_the_same_figure_is_the_same_bytes(drawing, tmp_path):
    drawing(tmp_path / "a")
    drawing(tmp_path / "b")
    for ending in (".pdf", ".svg", ".png", ".csv"):
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"{s}{e}" for s in "ab" for e in (".pdf", ".svg", ".png", ".csv")
    )


@pytest.mark.parametrize("note", ["commonest " * 30, "illi " * 60, "$S_{wp}$ " * 40, "W" * 300])
def test_no_note_is_wider_than_its_figure(note):
    figures.use_style()
    figure, _ = figures.panels(1, 1)
    figures.annotate(figure, [note])
    figure.draw_without_rendering()
    box = figure._supxlabel.get_window_extent()
    assert 0 <= box.x0 < 0.3 * figure.bbox.width < box.x1
    assert box.x1 <= figure.bbox.width


def test_text_in_an_svg_stays_text(drawing, tmp_path):
    drawing(tmp_path / "a")
    assert "A note that is long" in (tmp_path / "a.svg").read_text()


def test_notes_tell_what_a_reader_must_know():
    assert figures.notes([about()]) == []
    assert "built-in look-alikes" in figures.notes([about(source="builtin")])[0]
    assert figures.notes([about(source="elsewhere")]) == ["Prompts made outside icl-lens."]
    untrained = figures.notes([about(untrained=True), about()])
    assert len(untrained) == 1
    assert "gpt2 is untrained" in untrained[0]
    assert figures.notes([about(left_out=3), about(left_out=3), about("b", left_out=1)]) == [
        "Left out, being longer than the context of gpt2: 6 of the prompts.",
        "Left out, being longer than the context of b: 1 of the prompts.",
    ]
    assert "does not know up to 12 % of a panel's tokens" in figures.notes([about(unknown=0.123), about()])[0]
    assert len(figures.notes([about(source="builtin", untrained=True, left_out=2, unknown=0.5)])) == 4


@pytest.mark.parametrize(
    ("quantisation", "sentence"),
    [
        ("Q4_K_M", "gpt2: Q4_K_M weights, dequantised."),
        ("F16", "gpt2: F16 weights."),
    ],
)
def test_notes_tell_how_a_gguf_files_weights_were_stored(quantisation, sentence):
    converted = about()
    converted["model"]["gguf"] = {"file": "a.gguf", "sha256": "0", "quantisation": quantisation}
    assert figures.notes([converted, converted]) == [sentence]


def test_notes_tell_of_which_split_a_task_has_a_part_only():
    part = about() | {"task": {"title": "AGNews"}}
    part["corpus"]["subsets"] = {"train": {"texts": 30000, "published": 120000}}
    told = "AGNews: demonstrations come from a subset of the training split (30,000 of 120,000 texts)."
    assert figures.notes([part, part]) == [told]


def test_reduced_products_are_told_in_notes_and_beside_the_number_format():
    reduced = about() | {"dtype": "float32", "products": "bfloat16"}
    assert figures.notes([reduced, about("b")]) == ["Products of model gpt2 are computed in bfloat16 (matmul: fast)."]
    assert figures.notes([about() | {"products": "float32"}]) == []
    assert figures.number_format(reduced) == "float32 (products in bfloat16)"
    assert figures.number_format({"dtype": "float16", "products": "float32"}) == "float16"


def test_the_title_of_an_untrained_model_says_so():
    assert figures.model_title(about()) == "gpt2"
    assert figures.model_title(about(untrained=True)) == "gpt2 (untrained on such text)"


def test_a_long_name_stays_within_its_panel():
    figures.use_style()
    figure, grid = figures.panels(1, 2)
    for axes in grid.flat:
        figures.title(axes, "AGNews", "EleutherAI-pythia-1.4b-deduped-step143000 (untrained on such text)", "accuracy 0.25")
    figure.draw_without_rendering()
    width = figure.get_figwidth() * figure.dpi / 2
    assert all(axes.title.get_window_extent().width < width for axes in grid.flat)


def test_a_table_is_escaped_where_it_is_shown(tmp_path):
    figures.save_table(pd.DataFrame({"template": ["50% <b>{text}</b> | a_b"]}), tmp_path / "t")
    assert r"\<b\>\{text\}\</b\> \| a\_b" in (tmp_path / "t.md").read_text()
    assert r"50\% <b>\{text\}</b> | a\_b" in (tmp_path / "t.tex").read_text()
    assert pd.read_csv(tmp_path / "t.csv")["template"][0] == "50% <b>{text}</b> | a_b"


def test_a_table_may_show_fewer_digits_than_its_csv_has(tmp_path):
    figures.save_table(pd.DataFrame({"moved": [0.123456, 0.0], "prompts": [1234, 5]}), tmp_path / "t", digits=3)
    assert "| 0.123   | 1234" in (tmp_path / "t.md").read_text()
    assert "0.123 & 1234" in (tmp_path / "t.tex").read_text()
    assert pd.read_csv(tmp_path / "t.csv")["moved"].tolist() == [0.123456, 0.0]


@pytest.mark.parametrize("digits", [None, 3])
def test_what_is_not_defined_is_an_empty_cell(tmp_path, digits):
    figures.save_table(pd.DataFrame({"auc": [float("nan")], "moved": [0.5]}), tmp_path / "t", digits=digits)
    assert (tmp_path / "t.md").read_text().splitlines()[2].split("|")[1].strip() == ""
    assert "nan" not in (tmp_path / "t.tex").read_text().lower()


def test_a_tables_notes_stand_below_it_and_its_odd_characters_stay_on_their_line(tmp_path):
    figures.save_table(pd.DataFrame({"token": [figures.escaped('"\n\tété"')]}), tmp_path / "t", ["Two *words*,\nnone more."])
    assert pd.read_csv(tmp_path / "t.csv")["token"][0] == r'"\n\tété"'
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[2] == r'| "\\n\\tété" |'
    assert lines[3:5] == ["", r"Two \*words\*,"]
    tex = (tmp_path / "t.tex").read_text().splitlines()
    assert tex[0] == r"% Two *words*,\nnone more."
    assert tex[1].startswith(r"\begin")


def test_a_plain_text_holds_no_mathematics(tmp_path):
    figures.use_style()
    figure, _ = figures.panels(1, 1)
    figures.annotate(figure, [figures.plain("costs $5_0 or $6_0")])
    figures.save_figure(figure, pd.DataFrame({"a": [1]}), tmp_path / "a")
    assert "costs $5_0 or $6_0" in (tmp_path / "a.svg").read_text()


def test_a_value_that_does_not_exist_is_said_in_words():
    nan = float("nan")
    assert figures.with_interval(0.516, 0.4, -0.6) == "0.52 [0.40, -0.60]"
    assert figures.with_interval(0.516, nan, nan) == "0.52"
    assert figures.with_interval(nan, -1.0, 1.0) == "not defined"
