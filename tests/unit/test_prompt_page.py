"""Tests of the page of one prompt: that it shows what the studies compute, in a browser and in a notebook, and its errors."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import icl_lens
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.organism import CHECKPOINT
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.report import prompt_page, walk
from icl_lens.studies import computing, registry
from icl_lens.studies.anchors import isolating, single_prompt
from icl_lens.studies.anchors.saliency.summary import METRICS
from icl_lens.tasks.task import TASKS

from ..browser import complaints, opened
from ..prompts_table import prompts_table
from .test_report import CONTRASTS

EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">\u2028"
DEMONSTRATIONS = [("a warm and clever film", 1), (f"dull , slow and empty {EVIL}", 0), ("a moving story", 1)]


def table_of(demonstrations=DEMONSTRATIONS, query="a fine film", gold=1, task="sst2"):
    texts, labels = [text for text, _ in demonstrations], [label for _, label in demonstrations]
    words = list(TASKS[task].label_words)
    keys = {
        "task": task,
        "set": "own",
        "seed": 0,
        "prompt_id": 0,
        "shots": 2,
        "query_index": 0,
        "demo_indices": [*range(len(texts))],
    }
    return pd.DataFrame(
        [{**keys, "gold": gold, "label_words": words, "demo_labels": labels, **write_prompt(TASKS[task], texts, labels, query)}]
    )


@pytest.fixture(scope="module")
def model():
    return loading.load(CHECKPOINT, name="embedded", device="cpu")


@pytest.fixture(scope="module")
def page(model):
    return prompt_page.compute(model, table_of())


@pytest.fixture(scope="module")
def prompt(page):
    return page.data["prompts"][0]


def study(model, name, **settings):
    declared = registry.study(name)
    resolved = declared.settings.section(**settings) if declared.settings else None
    return computing.compute(declared, model, table_of(), resolved).rows


def test_the_shares_are_those_of_saliency(model, prompt):
    means = study(model, "saliency")[list(METRICS)].to_numpy()  # (L, 3)
    np.testing.assert_allclose(prompt["shares"], means / means.sum(1, keepdims=True), atol=6e-4)


def test_the_edges_are_those_of_the_flow(model, prompt):
    flow = study(model, "flow", least=0)
    assert prompt["left_out"] == 0
    for measure in ("saliency", "attention"):
        for layer in range(model.layers):
            edges = flow[flow["layer"] == layer].nlargest(walk.EDGES, measure)
            expected = {(e.query, e.key): getattr(e, measure) / edges[measure].max() for e in edges.itertuples()}
            found = {(query, key): share for query, key, share, _ in prompt["flow"][measure][layer]}
            assert found.keys() == expected.keys()
            np.testing.assert_allclose([found[edge] for edge in expected], list(expected.values()), atol=6e-4)


def test_the_edges_of_the_heads_are_the_strongest_of_each_head(model, prompt):
    found = {}
    (tokenized,) = tokenize(table_of(), model.tokenizer)
    single_prompt.head_flows(model, tokenized, lambda layer, *matrices: found.__setitem__(layer, matrices))
    for layer, matrices in found.items():
        for measure, values in zip(("saliency", "attention"), matrices, strict=True):
            for head, matrix in enumerate(values):
                edges = prompt["heads"][measure][layer][head]
                assert edges[-1][2] == 1, "the strongest edge is drawn"
                assert [matrix[q, k] for q, k, *_ in edges] == sorted(np.sort(matrix, axis=None)[-len(edges) :])
        total = prompt["heads"]["shares"]["all"][layer]
        assert sum(total) == pytest.approx(1, abs=0.01)
        kinds = [prompt["heads"]["shares"][kind][layer] for kind in walk.KINDS]
        np.testing.assert_allclose(np.sum(kinds, 0), total, atol=2e-3)


def test_the_answer_and_the_last_layer_of_the_logit_lens_are_those_of_icl(model, prompt):
    (answer,) = study(model, "icl").to_dict("records")
    probabilities = np.exp(answer["class_log_probs"])
    assert prompt["prediction"] == answer["prediction"]
    np.testing.assert_allclose(prompt["probabilities"], probabilities, atol=6e-4)
    np.testing.assert_allclose(prompt["lens"]["probabilities"][-1], probabilities, atol=1e-3)
    top = model.tokenizer.decode([answer["top_tokens"][0]]).strip()
    assert prompt["lens"]["tokens"][-1][0][0] == top


def test_the_isolation_is_that_of_the_study(model, prompt):
    rows = study(model, "isolation", targets=["label"])
    every = [run for run in prompt["isolated_words"] if run["word"] == single_prompt.ALL]
    assert [(run["side"], run["layers"], int(np.argmax(run["probabilities"]))) for run in every] == [
        (row.side, row.layers, row.prediction) for row in rows.itertuples()
    ]
    assert {run["word"] for run in prompt["isolated_words"]} == {single_prompt.ALL, 0, 1, 2}
    main = study(model, "isolation", layers=[isolating.main_layers(model.layers)])
    means = main.groupby(["target", "side"], sort=False)[["label_agrees", "word_jaccard_5"]].mean()
    shown = {(entry["target"], entry["side"]): [entry["agrees"], entry["words"]] for entry in prompt["isolation"]}
    assert shown.keys() == set(means.index)
    for condition, row in means.iterrows():
        np.testing.assert_allclose(shown[condition], row.astype(float), atol=6e-4)


def test_the_cuts_are_those_of_the_study(model, prompt):
    rows = study(model, "ch_edge_cuts")
    rows = rows[(rows["rows"] == "last") & (rows["span"] != "window")]
    assert {each["name"] for each in prompt["cuts"]} == set(rows["columns"])
    reached = set()
    for each in prompt["cuts"]:
        of_class = rows[rows["columns"] == each["name"]]
        assert each["tokens"] == of_class[of_class["variant"] == "set"]["cut_tokens"].iloc[0]
        assert len(each["rows"]) == each["tokens"], "all tokens of this prompt are shown"
        assert [(run["span"], run["start"], run["stop"]) for run in each["runs"]] == [
            ("all", 0, 6),
            ("first half", 0, 3),
            ("second half", 3, 6),
        ]
        for run in each["runs"]:
            for variant in ("set", "random", "mass"):
                expected = of_class[(of_class["span"] == run["span"]) & (of_class["variant"] == variant)]
                found = run[variant]
                reached.add((variant, found is not None))
                assert expected["valid"].all() == expected["valid"].any() == (found is not None)
                if found:
                    assert found["predictions"] == expected["prediction"].tolist()
                    assert found["effect"] == pytest.approx(expected["effect"].mean(), abs=6e-4)
                    assert found["mass"] == pytest.approx(expected["mass"].mean(), abs=6e-4)
                    assert sum(found["probabilities"]) == pytest.approx(1, abs=2e-3)
    assert reached == {("set", True), ("random", True), ("random", False), ("mass", True), ("mass", False)}


def test_a_prompt_with_too_many_tokens_has_no_cuts(language_model, monkeypatch):
    monkeypatch.setattr(prompt_page, "_CUT_TOKENS", {True: 20, False: 10})
    page = prompt_page.compute(language_model("gpt2"), prompts_table(count=1))
    tokens = page.data["prompts"][0]["tokens"]
    sentence = (
        f"The prompt has {tokens} tokens, so the cuts of the attention to classes of tokens are left out; they are computed "
        "for at most 20 tokens."
    )
    assert page.data["prompts"][0]["cuts"] is None
    assert sentence in page.notes
    assert sentence in page.html
    assert "cuts-title" not in re.sub("(?s)<(style|script).*?</(style|script)>", "", page.html)


def test_the_attention_is_that_of_deep_attention(model, prompt):
    rows = study(model, "deep_attention")
    np.testing.assert_allclose(np.ravel(prompt["attention"]), rows["attention"], atol=6e-4)


def test_without_a_correct_label_the_flow_is_that_of_the_predicted_label(model, page, prompt):
    predicted = prompt["prediction"]
    unknown = prompt_page.compute(model, table_of(gold=None).astype({"gold": "Int64"}))
    known = prompt_page.compute(model, table_of(gold=predicted))
    found, expected = (each.data["prompts"][0] for each in (unknown, known))
    assert (found["gold_known"], expected["gold_known"]) == (False, True)
    assert {**found, "gold_known": True} == expected
    assert "no correct label was given" in unknown.html
    assert "no correct label was given" not in page.html


def test_no_text_becomes_markup_and_the_page_is_small(page):
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page.html)
    assert [tag for tag, _ in tags].count("img") == 0
    assert not any("src" in attributes or tag == "link" for tag, attributes in tags)
    assert len(page.html.encode()) < 3_000_000
    assert "taken" not in page.html, "the texts are compressed"
    assert (
        repr(page)
        == f"<page of a prompt with {page.data['prompts'][0]['tokens']} tokens, model embedded; save(path) writes it>"
    )


def test_a_long_prompt_is_folded(model):
    demonstrations = [("a warm and clever film " * 12, number % 2) for number in range(6)]
    long = prompt_page.compute(model, table_of(demonstrations)).data["prompts"][0]
    assert len(long["words"]) <= walk.ROWS < long["tokens"]
    shown = set(range(len(long["words"]))) - {row for row, _ in long["runs"]}
    for of_layer in long["heads"]["saliency"]:
        assert all({query, key} <= shown for edges in of_layer for query, key, *_ in edges)
    assert len(long["anchor_words"]) == len(long["anchors"])
    for each in long["cuts"]:
        assert set(each["rows"]) <= shown
        assert len(each["rows"]) <= each["tokens"]
    assert sum(each["tokens"] for each in long["cuts"] if each["name"] not in ("all", "first")) > len(shown)


def test_a_prompt_that_cannot_be_shown_is_refused(model, language_model):
    with pytest.raises(InputError, match="the prompt has no demonstration, so it has no label words; add at least one"):
        prompt_page.compute(model, table_of([]))
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens, but the context of gpt2 has only 64 tokens; use fewer"):
        prompt_page.compute(language_model("gpt2", context=64), prompts_table("trec", count=1))
    with pytest.raises(InputError, match="a page shows one prompt, but the table has 2 rows"):
        prompt_page.compute(model, prompts_table(count=2))


def test_notes_say_what_a_prompt_or_model_does_not_allow(language_model):
    tiny = language_model("gpt2")
    tiny.__dict__["can_resume"] = False
    page = prompt_page.compute(tiny, prompts_table(count=1))
    assert page.data["prompts"][0]["lens"] is None
    assert page.notes[0] == "The logit lens is not available for this model family."
    assert page.notes[1].startswith("The loss of gpt2 on this prompt is not below that of a uniform distribution")
    assert all(note in page.html for note in page.notes)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(page, prompt, tmp_path, width):
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    out = tmp_path / "walk.html"
    page.save(out)
    with opened(out, width) as driver:
        find = driver.find_element
        wait = ui.WebDriverWait(driver, 20).until
        wait(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")
        labels = page.data["labels"]
        verdict = ", which is correct." if prompt["prediction"] == 1 else "; the correct label is Positive."
        assert find("id", "walk-answer").text == f"embedded predicts {labels[prompt['prediction']]}{verdict}"
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width

        # A click on a label word shows its isolation.
        buttons = driver.find_elements("css selector", "#walk-tokens button")
        assert [button.text for button in buttons] == ["Positive", "Negative", "Positive"]
        for number in (1, 2):
            buttons[number].click()
            runs = [run for run in prompt["isolated_words"] if run["word"] == number]
            cells = [cell.text for cell in driver.find_elements("css selector", "#walk-words tbody tr:last-child td")]
            last = runs[-1]["probabilities"]
            assert cells == ["last {layers}".format(**runs[-1]), labels[int(np.argmax(last))], *(f"{p:.3f}" for p in last)]
            assert len(driver.find_elements("css selector", "#walk-words tbody tr")) == len(runs) + 1
            assert [b.get_attribute("aria-pressed") for b in buttons] == [str(i == number).lower() for i in range(3)]
            assert (
                f"label word {number + 1} ({labels[DEMONSTRATIONS[number][1]]}) isolated" in find("id", "walk-word-answer").text
            )
        ui.Select(find("id", "walk-word")).select_by_value("-1")
        assert {b.get_attribute("aria-pressed") for b in buttons} == {"true"}

        # Layer, head and measure change the chart.
        def shown():
            return find("id", "walk-flow").get_attribute("aria-label")

        def choose_layer(layer):
            driver.execute_script(
                "const layer = document.getElementById('walk-layer'); layer.value = arguments[0];"
                "layer.dispatchEvent(new Event('input'))",
                layer,
            )

        seen = {shown()}
        choose_layer(2)
        seen.add(shown())
        ui.Select(find("id", "walk-head")).select_by_value("1")
        assert shown().startswith("Layer 2, head 1, strongest edges: ")
        seen.add(shown())
        ui.Select(find("id", "walk-measure")).select_by_value("attention")
        seen.add(shown())
        assert len(seen) == 4
        assert find("id", "walk-shown").text == "Layer 2, head 1: attention weights of this head."
        lines = "#walk-flow svg g.mark-rule path, #walk-flow svg g.mark-rule line"
        wait(lambda d: len(d.find_elements("css selector", lines)) == len(prompt["heads"]["attention"][2][1]))

        # The heat map shows the heads, and a click chooses one.
        marks = "#walk-heads svg g.mark-rect.role-mark.layer_0_marks path"
        cells = driver.find_elements("css selector", marks)
        assert len(cells) == page.data["layers"] * len(prompt["heads"]["saliency"][0])
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells[0])
        cells[0].click()
        assert shown().startswith("Layer 0, head 0, strongest edges: ")
        assert find("id", "walk-head").get_attribute("value") == "0"

        requests = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert requests == []
        assert driver.title == "Information flow in one prompt: embedded"
        assert complaints(driver) == []


def test_a_class_of_tokens_is_cut_by_a_click_or_a_key(page, prompt, tmp_path):
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    out = tmp_path / "walk.html"
    page.save(out)
    labels = page.data["labels"]
    by_name = {each["name"]: each for each in prompt["cuts"]}
    with opened(out) as driver:
        find, every = driver.find_element, driver.find_elements
        wait = ui.WebDriverWait(driver, 20).until
        wait(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")

        def require_shown(name):
            each = by_name[name]
            pressed = every("css selector", "#walk-cut-buttons [aria-pressed=true], #walk-cuts [aria-pressed=true]")
            assert [button.text for button in pressed] == [each["title"]] * 2
            tokens = every("css selector", "#walk-tokens > *")
            marked = set(every("css selector", "#walk-tokens > .cut"))
            assert [row for row, token in enumerate(tokens) if token in marked] == each["rows"]
            changed = [run for run in each["runs"] if run["set"]["predictions"] != [prompt["prediction"]]]
            verdict = "is no longer" if changed else "remains"
            answer = find("id", "walk-cut-answer").text
            assert answer.startswith(
                f"Without the attention of the last position to the {each['title']} ({each['tokens']} token"
            )
            assert f"the prediction {verdict} {labels[prompt['prediction']]} in " in answer
            rows = [
                [cell.text for cell in row.find_elements("css selector", "td")]
                for row in every("css selector", "#walk-cut tbody tr")
            ]
            assert len(rows) == 1 + 3 * len(each["runs"])
            controls = [variant for run in each["runs"] for variant in (run["set"], run["random"], run["mass"])]
            for row, control in zip(rows[1:], controls, strict=True):
                if control is None:
                    assert row[2:] == ["not reachable"]
                else:
                    effect = f"{control['effect']:+.2f}".replace("-", "\u2212")
                    effect = effect[1:] if effect[1:] == "0.00" else effect
                    assert [row[2], *row[4:]] == [
                        f"{control['mass']:.3f}",
                        *(f"{p:.3f}" for p in control["probabilities"]),
                        effect,
                    ]
            return rows

        rows = require_shown("label")
        assert rows[0][3] == labels[prompt["prediction"]]
        assert [row[0] for row in rows[1::3]] == ["all layers", "first half, layers 0\u20132", "second half, layers 3\u20135"]
        # By a key, on the buttons below the prompt and in the table.
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        for selector in ("#walk-cut-buttons [data-cut=template]", "#walk-cuts button[data-cut=all]"):
            button = find("css selector", selector)
            button.send_keys(keys.ENTER)
            rows = require_shown(button.get_attribute("data-cut"))
        assert [row[2] for row in rows[2:4]] == ["not reachable", "not reachable"]
        # By a click on a token. A label word is also isolated.
        token = find("css selector", f"#walk-tokens > :nth-child({by_name['content']['rows'][0] + 1})")
        token.click()
        require_shown("content")
        every("css selector", "#walk-tokens button")[2].click()
        require_shown("label")
        assert find("id", "walk-word-answer").text.startswith("With label word 3 (Positive) isolated")
        # The tokens of the query belong to no class.
        find("css selector", "#walk-tokens > :last-child").click()
        require_shown("label")
        shown = [row.text for row in every("css selector", "#walk-cuts tbody tr")]
        assert len(shown) == len(by_name)
        for text, each in zip(shown, prompt["cuts"], strict=True):
            assert text.startswith(f"{each['title']}\n{each['tokens']} ") or text.startswith(
                f"{each['title']} {each['tokens']} "
            ), text
        assert complaints(driver) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_page_has_enough_contrast(page, tmp_path, scheme):
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    out = tmp_path / "walk.html"
    page.save(out)
    with opened(out) as driver:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        ready = ui.WebDriverWait(driver, 20).until
        ready(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")
        ui.Select(driver.find_element("id", "walk-word")).select_by_value("-1")
        driver.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
        worst = driver.execute_script(CONTRASTS)
        assert worst[0][0] >= 4.5, worst


def test_a_notebook_shows_the_page_in_a_frame(page, tmp_path):
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    out = tmp_path / "notebook.html"
    out.write_text(f"<!doctype html><meta charset=utf-8><body>{page._repr_html_()}</body>", encoding="utf-8")
    with opened(out) as driver:
        driver.switch_to.frame(driver.find_element("css selector", "iframe"))
        ready = ui.WebDriverWait(driver, 20).until
        ready(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")
        assert driver.find_element("id", "walk-answer").text.startswith("embedded predicts ")
        assert complaints(driver) == []


PROMPT = (
    "Review: a warm and clever film\nSentiment: Positive\n\nReview: dull and slow\nSentiment: Negative\n\nReview: fine\n"
    "Sentiment:\n"
)
MODEL = ("--model", str(CHECKPOINT), "--device", "cpu")


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": text, "label": TASKS["sst2"].label_words[label].strip()} for text, label in DEMONSTRATIONS]
    Path("demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("prompt.txt").write_text(PROMPT)
    Path("empty.jsonl").write_text("")
    Path("demos.xlsx").write_text("")
    Path("unlabelled.txt").write_text("Review: a warm film\nSentiment:")
    Path("folder").mkdir()
    return tmp_path


TASK = ("--task", "sst2", "--demos", "demos.jsonl", "--query", "a fine film")


@pytest.mark.parametrize(
    "arguments",
    [(*TASK, "--gold", "Positive", "--name", "embedded"), ("--prompt", "prompt.txt", "--label-words", "Positive", "Negative")],
)
def test_the_command_writes_the_page_and_opens_it(own, arguments, monkeypatch, caplog, page):
    opened_pages = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened_pages.append(url))
    caplog.set_level("INFO")
    assert main(["walk", *MODEL, *arguments, "--out", "walk.html", "--open"]) == 0
    html = Path("walk.html").read_text(encoding="utf-8")
    assert "wrote walk.html" in caplog.messages
    assert opened_pages == [(own / "walk.html").as_uri()]
    assert "--open: no browser was found; open walk.html in a browser" in caplog.messages
    if "--task" in arguments:
        assert html == page.html, "the same page as from Python"
    else:
        assert re.search(r"Prompt: \d+ tokens, 2 demonstrations; label words: Positive, Negative</li>", html)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no prompt is given; specify --task, --demos and --query, or --prompt and --label-words"),
        (TASK[:4], "--query is missing; specify the text to classify, or --prompt with a whole prompt"),
        (TASK[:2], "--demos is missing; specify the file with the demonstrations, or --prompt"),
        (TASK[2:], "--task is missing; specify the task, or --prompt"),
        ((*TASK, "--prompt", "prompt.txt"), "remove --task and --demos and --query, or --prompt"),
        ((*TASK, "--label-words", "a", "b"), "a task has its own label words; remove --label-words"),
        (("--prompt", "prompt.txt"), "--label-words is missing; --prompt needs the label words"),
        (
            ("--prompt", "unlabelled.txt", "--label-words", "Positive", "Negative"),
            "--prompt unlabelled.txt: contains none of the label words Positive, Negative",
        ),
        (("--prompt", "missing.txt", "--label-words", "a", "b"), "missing.txt"),
        ((*TASK[:2], "--demos", "empty.jsonl", *TASK[4:]), "empty.jsonl contains no demonstrations; add at least one"),
        ((*TASK[:2], "--demos", "demos.xlsx", *TASK[4:]), "demonstrations must be a .csv, .tsv, .jsonl or .parquet file"),
        ((*TASK, "--gold", "Great"), "gold: unknown label 'Great'; the labels are Negative, Positive"),
        ((*TASK[:4], "--query", " "), "query: the text must be a string that is not empty"),
    ],
)
def test_the_command_refuses_invalid_input_in_one_line(own, arguments, sentence, capsys):
    assert main(["walk", *MODEL, *arguments, "--out", "walk.html"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("icl-lens walk: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("walk.html").exists()


def test_the_output_is_checked_before_the_computation(own, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model is loaded"))
    for out, sentence in (
        ("folder", "folder is a folder; specify a file"),
        ("demos.jsonl", "--out demos.jsonl is also --demos"),
    ):
        assert main(["walk", *MODEL, *TASK, "--out", out]) == 1
        assert sentence in capsys.readouterr().err


def test_the_api_gives_the_same_page(page):
    model = icl_lens.load("embedded", device="cpu")
    prompt = icl_lens.Prompt.from_examples("sst2", DEMONSTRATIONS, "a fine film", gold="Positive")
    assert icl_lens.walk(model, prompt).html == page.html
    with pytest.raises(InputError, match=r"walk: model must be an icl_lens\.Model, .* got 'str'"):
        icl_lens.walk("embedded", prompt)
