"""Tests of the report: its contents, that it needs no other files, and that no text of a data set becomes markup."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from icl_lens.artifacts import hashes
from icl_lens.errors import InputError
from icl_lens.report import page, walk
from icl_lens.results import audit, nulls
from icl_lens.studies import registry
from tests import artifacts

from ..browser import complaints, opened
from ..conftest import REPOSITORY

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
PAGE = REPOSITORY / "src/icl_lens/resources/report"
CLAIMS = {
    "name": "A paper",
    "reference": "somebody",
    "models": ["someone/model"],
    "claims": [
        {"id": "holds", "item": "figure_4", "where": "1", "statement": f"It holds {EVIL}.", "rule": {"above": 0.5}},
        {"id": "fails", "item": "figure_4", "where": "2", "statement": "It fails.", "rule": {"below": 0.5}},
        {"id": "absent", "item": "figure_6", "where": "3", "statement": "Nobody looked.", "rule": {"below": 0.5}},
    ],
}


def write_table(results, name, kind, rows, inputs=(), **more):
    read = {path: hashes.file_hash(results / path) for path in inputs}
    artifacts.write(
        results / name,
        pd.DataFrame(rows),
        artifacts.describe(kind, "icl_lens.artifacts.parquet", read, {}, [7], **more),
    )


@pytest.fixture
def results(tmp_path):
    """A results folder with one figure and one table, made from artifacts with texts that contain markup."""
    results = tmp_path / "results"
    task = {"name": "sst2", "title": EVIL, "template": "", "label_words": [" a", " b"]}
    more = {"corpus": {"source": "builtin"}, "task": task}
    write_table(results, "corpora/sst2.parquet", "corpora", [{"split": "train", "index": 0, "text": EVIL, "label": 0}])
    keys = {"model": "m", "task": "sst2", "set": "shared-1shot", "seed": 7, "prompt_id": 0}
    condition = {"target": "label", "side": "first", "layers": 1, "draw": 0, "order": 0, "prediction": 0}
    condition |= {"label_agrees": True}
    write_table(
        results,
        "studies/m/sst2/shared-1shot/isolation.parquet",
        "isolation",
        [{**keys, **condition, "word_jaccard_5": 1.0, "word_jaccard_10": 1.0}],
        inputs=["corpora/sst2.parquet"],
        model={"name": "m", "family": "gpt2", "layers": 2, "parameters": 1000},
        dtype="float32",
        device="cpu",
        observed={
            "prompts": 3,
            "untrained": False,
            "left_out": 0,
            "unknown_tokens": 0.0,
            "next_token_loss": 3.5,
            "uniform_loss": 8.6,
        },
        **more,
    )
    inputs = ["studies/m/sst2/shared-1shot/isolation.parquet"]
    for item, endings in (("figures/figure_4", ("csv", "svg", "pdf", "png", "txt")), ("tables/table_4", ("csv", "md", "tex"))):
        (results / item).parent.mkdir(parents=True, exist_ok=True)
        for ending in endings:
            (results / f"{item}.{ending}").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        if "md" in endings:
            (results / f"{item}.md").write_text("| a |\n|---|\n| b |\n\nA note on figure\\_4.\n")
        shown = pd.DataFrame([{"model": "m", "task": EVIL, "value": 0.912345678, "low": 0.8, "high": 1.0, "prompts": 3}])
        shown.to_csv(results / f"{item}.csv", index=False)
        made = {f"{item}.{ending}": "0" * 64 for ending in endings}
        read = {path: hashes.file_hash(results / path) for path in inputs}
        (results / f"{item}.json").write_text(json.dumps({"inputs": read, "outputs": made}))
    (tmp_path / "claims.yaml").write_text(json.dumps(CLAIMS))  # JSON is valid YAML
    return results


def make(results, items=("figure_4", "table_4")):
    out = results / "report/index.html"
    page.write(results, items, [results.parent / "claims.yaml"], PAGE, out)
    return out


def test_the_page_says_what_held_and_from_what(results):
    html = make(results).read_text()
    found = dict(re.findall(r'<tr data-outcome="([^"]+)"[^>]*>\s*<td[^>]*><span id="claim-(\w+)', html))
    assert found == {"holds": "holds", "contradicted": "fails", "not testable": "absent"}
    assert "0.912 [0.800, 1.000]" in html
    assert 'href="../corpora/sst2.parquet"' in html
    assert hashes.file_hash(results / "corpora/sst2.parquet")[:12] in html
    assert "3 prompts per task, seeds 7; float32 on cpu" in html
    assert "A note on figure_4." in html


def test_the_counts_are_at_the_top_and_claims_that_are_not_testable_are_collapsed(results):
    html = make(results).read_text()
    top, _, folded = html.partition('<details id="not-testable">')
    assert "<strong>Of 2 testable claims, 1 hold.</strong>" in top
    row = re.search(r'<th scope="row">A paper</th>(.*?)</tr>', top)[1]
    assert re.findall(r"<td>([^<]*)</td>", row) == ["1", "0", "0", "1", "2", "1"]
    assert top.index("A paper</th>") < top.index('id="claim-holds"')
    assert "<summary>1 claim not testable with this run</summary>" in folded
    assert 'id="claim-absent"' in folded
    assert 'id="claim-absent"' not in top
    assert "run <code>make null</code>" in top


def null(results, name, **verdicts):
    """Write the scorecard of a null run, and return its path."""
    path = results / "null" / name / "report/scorecard.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"claim": verdicts.keys(), "verdict": verdicts.values()}).to_csv(path, index=False)
    return path


def test_the_claims_that_hold_in_null_runs_are_counted_next_to_the_others(results):
    null(results, "untrained", holds="holds", fails="holds", absent="holds")
    null(results, "shuffled-labels", holds="undecided", fails="not testable")
    files = nulls.scorecards(results)
    assert list(files) == ["untrained", "shuffled-labels"]
    out = results / "report/index.html"
    page.write(results, ["figure_4", "table_4"], [results.parent / "claims.yaml"], PAGE, out, nulls=files)
    html = out.read_text()
    assert "1 hold; of the same claims, 2 of 2 on an untrained copy of the model and 0 of 1 with shuffled labels." in html
    assert '<th scope="col">hold: untrained copy</th>' in html
    assert "<td>2 of 2</td><td>0 of 1</td>" in html
    assert "make null" not in html
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["page"]["null/untrained"] == hashes.file_hash(files["untrained"])


def test_a_file_that_is_not_a_scorecard_is_rejected(results):
    path = null(results, "untrained", holds="maybe")
    arguments = (results, ["figure_4"], [results.parent / "claims.yaml"], PAGE, results / "report/index.html")
    with pytest.raises(InputError, match=r"scorecard.csv is not the scorecard of a null run \(unknown verdict maybe\)"):
        page.write(*arguments, nulls={"untrained": path})
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"scorecard.csv is not the scorecard of a null run"):
        page.write(*arguments, nulls={"untrained": path})
    assert not (results / "report/index.html").exists()


def test_the_scorecard_is_also_a_table(results):
    shown = pd.read_csv(make(results).with_name("scorecard.csv")).set_index("claim")
    assert shown["verdict"].to_dict() == {"holds": "holds", "fails": "contradicted", "absent": "not testable"}
    assert not shown["papers_own_model"].any()
    assert [fault for fault in audit.audit(results, registry.schemas())[1] if "report" in fault.sentence] == []


@pytest.mark.parametrize(
    ("model", "corpus", "expected"),
    [
        ({}, {}, ["m"]),
        ({"gguf": {"quantisation": "Q4_K_M"}}, {}, []),
        ({"weights": {"drawn_with_seed": 0}}, {}, []),
        ({}, {"shuffled_labels": 0}, []),
        ({}, {"source": "builtin"}, []),
    ],
)
def test_only_the_papers_own_model_on_the_original_texts_is_marked(model, corpus, expected):
    about = [{"model": {"name": "m", "hub": "Someone/Model", **model}, "corpus": {"source": "files", **corpus}}]
    assert page._original_models(about, {"someone/model"}) == expected


def test_items_stand_in_the_order_of_their_numbers():
    names = ["table_2", "figure_controls", "figure_10", "table_1", "figure_9"]
    assert sorted(names, key=page._sort_key) == ["figure_9", "figure_10", "figure_controls", "table_1", "table_2"]


def test_no_text_becomes_markup(results):
    html = make(results).read_text()
    assert "&lt;script&gt;document.title" in html
    assert "<script>document.title" not in html
    assert "<img src=x" not in html


def test_the_page_asks_for_nothing_but_itself(results):
    html = make(results).read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]+)"', html))
    assert "default-src 'none'" in html


def test_the_same_results_give_the_same_bytes(results):
    first = make(results).read_bytes()
    assert make(results).read_bytes() == first


def test_pictures_have_a_text_that_states_the_finding(results):
    alt, _ = re.findall(r'alt="([^"]+)"', make(results).read_text())
    assert "m: contradicted (It fails)." in alt


def test_a_missing_figure_is_told_in_one_sentence(results):
    (results / "figures/figure_4.csv").unlink()
    with pytest.raises(
        InputError, match="figure_4 is missing or corrupted; run `snakemake figure_4 --cores all` with the same config"
    ):
        make(results)
    assert not (results / "report/index.html").exists()


def test_in_a_browser_it_sorts_filters_and_takes_no_orders_from_data(results):
    Select = pytest.importorskip("selenium.webdriver.support.ui").Select  # noqa: N806
    with opened(make(results)) as driver:
        rows = driver.find_elements("css selector", ".claims tbody tr")

        def shown():
            return [
                row.get_attribute("data-outcome")
                for row in driver.find_elements("css selector", ".claims tbody tr")
                if row.is_displayed()
            ]

        assert len(rows) == 3
        outcome = Select(driver.find_element("css selector", "#outcome"))
        assert shown() == ["holds", "contradicted"], "claims that are not testable are folded away"
        outcome.select_by_visible_text("holds")
        assert shown() == ["holds"]
        outcome.select_by_visible_text("not testable")
        assert shown() == ["not testable"], "the filter opens the folded claims"
        outcome.select_by_visible_text("all verdicts")
        driver.find_element("css selector", "#words").send_keys("nobody")
        assert shown() == ["not testable"]
        driver.find_element("css selector", "#words").clear()
        driver.find_element("css selector", "#words").send_keys(" ")
        driver.execute_script("document.getElementById('not-testable').open = false")
        verdict = driver.find_elements("css selector", "#claims thead button")[6]
        verdict.click()
        assert shown() == ["contradicted", "holds"]
        verdict.click()
        assert shown() == ["holds", "contradicted"]
        assert driver.title == "icl-lens: A paper"
        assert complaints(driver) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(results, width):
    with opened(make(results), width) as driver:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def walkable(results):
    """Create a folder of studies for two prompts and two layers, with words that contain markup."""
    folder = results / "studies/m/sst2/walk"
    model = {"name": "m", "family": "gpt2", "layers": 2, "parameters": 1000}
    task = {"name": "sst2", "title": EVIL, "template": "", "label_words": [" a", f" {EVIL}"]}
    more = {"model": model, "task": task, "corpus": {"source": "builtin"}}
    words = [EVIL, "a", "b", ":"]
    keys = [{"model": "m", "task": "sst2", "set": "walk", "seed": 7 + i, "prompt_id": i} for i in range(2)]
    means = {"layer_total": 3.0, "s_wp": 2.0, "s_pq": 1.0, "s_ww": 1.0}
    tokens = [
        {**key, "position": i, "token": word, "start": i, "end": i + 1, "class": 0 if i == 1 else -1, "last": i == 3}
        for key in keys
        for i, word in enumerate(words)
    ]
    flow = [
        {**key, "layer": layer, "query": query, "key": 0, "saliency": value, "attention": 1 - value, **means}
        for key in keys
        for layer in range(2)
        for query, value in ((1, 0.9 - 0.8 * layer), (3, 0.1 + 0.8 * layer))
    ]
    answers = [{**key, "gold": 1, "prediction": 1, "class_log_probs": [-2.0, -0.145], "top_tokens": [1]} for key in keys]
    loyal = {"prediction": 0, "label_agrees": False, "word_jaccard_5": 0.25, "word_jaccard_10": 0.3}
    isolation = [{**key, "target": "label", "side": "first", "layers": 1, "draw": 0, "order": 0, **loyal} for key in keys]
    for kind, rows in (("tokens", tokens), ("flow", flow), ("icl", answers), ("isolation", isolation)):
        write_table(results, f"studies/m/sst2/walk/{kind}.parquet", kind, rows, **more)
    return folder


def test_one_prompt_can_be_walked_in_a_browser(results):
    select = pytest.importorskip("selenium.webdriver.support.ui").Select
    out = results / "report/index.html"
    page.write(results, ["figure_4"], [results.parent / "claims.yaml"], PAGE, out, [walkable(results)])
    with opened(out) as driver:
        find = driver.find_element

        def wait(condition):
            pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(driver, 20).until(condition)

        wait(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")
        assert find("id", "walk-answer").text == f"m predicts {EVIL}, which is correct."
        assert [mark.text for mark in driver.find_elements("css selector", "#walk-tokens mark")] == ["a"]
        lines = "#walk-flow svg g.mark-rule path, #walk-flow svg g.mark-rule line"
        wait(lambda d: len(d.find_elements("css selector", lines)) == 2)
        assert find("id", "walk-flow").get_attribute("aria-label").startswith("Layer 0, strongest edges: a from <script>")
        driver.execute_script(
            "const layer = document.getElementById('walk-layer'); layer.value = 1; layer.dispatchEvent(new Event('input'))"
        )
        assert find("id", "walk-flow").get_attribute("aria-label").startswith("Layer 1, strongest edges: : from <script>")
        select(find("id", "walk-measure")).select_by_value("attention")
        assert find("id", "walk-flow").get_attribute("aria-label").startswith("Layer 1, strongest edges: a from <script>")
        assert find("id", "walk-shares").get_attribute("aria-label") == "Layer 1: S_wp 0.5, S_pq 0.25, S_ww 0.25"
        select(find("id", "walk-seed")).select_by_visible_text("8")
        assert select(find("id", "walk-prompt")).first_selected_option.get_attribute("value") == "1"
        cells = [cell.text for cell in driver.find_elements("css selector", "#walk-isolation td")]
        assert cells == ["label words", "first 1", "a", "no", "0.25"]
        assert driver.title == "icl-lens: A paper"
        assert complaints(driver) == []


def test_a_walk_draws_the_strongest_edges_and_what_was_measured(results):
    (task,) = walk.read([walkable(results)])
    prompt = task["prompts"][0]
    assert prompt["flow"]["saliency"][0] == [[3, 0, 0.111, "ww"], [1, 0, 1.0, "wp"]]
    assert prompt["flow"]["attention"][0] == [[1, 0, 0.111, "wp"], [3, 0, 1.0, "ww"]]
    assert prompt["shares"] == [[0.5, 0.25, 0.25]] * 2
    assert prompt["probabilities"] == [0.135, 0.865]


LONG = 1394


def lengthened(results):
    """Replace the first prompt of :func:`walkable` by one with many tokens and, in each layer, many edges."""
    folder = walkable(results)
    draw = np.random.default_rng(0)
    for kind in ("tokens", "flow"):
        rows, about = artifacts.read(folder / f"{kind}.parquet", kind)
        first = rows[rows["prompt_id"] == 0].iloc[[0]]
        if kind == "tokens":
            new = pd.concat([first] * LONG).assign(
                position=range(LONG), start=range(LONG), end=range(1, LONG + 1), token="word"
            )
            new["class"] = [i % 2 if i in (300, 700, 1100) else -1 for i in range(LONG)]
            new["last"] = new["position"] == LONG - 1
        else:
            new = pd.concat([first] * 2000).assign(layer=np.repeat([0, 1], 1000), key=np.tile(np.arange(1000), 2))
            new["query"] = new["key"] + draw.integers(1, 300, 2000)
            new["saliency"], new["attention"] = draw.random((2, 2000))
        table = pd.concat([new, rows[rows["prompt_id"] == 1]], ignore_index=True)
        more = {key: about[key] for key in ("model", "task", "corpus")}
        write_table(results, f"studies/m/sst2/walk/{kind}.parquet", kind, table, **more)
    return folder


def test_of_a_long_prompt_the_tokens_with_the_strongest_edges_are_included(results):
    folder = lengthened(results)
    (task,) = walk.read([folder])
    long, short = task["prompts"]
    assert len(long["words"]) <= walk.ROWS
    assert long["tokens"] == LONG
    runs = dict(long["runs"])
    assert sum(runs.values()) == long["left_out"] == LONG - (len(long["words"]) - len(runs))
    assert all(long["words"][row] == f"… {count} tokens not shown …" for row, count in runs.items())
    assert len(long["anchors"]) == 3
    for measure in ("saliency", "attention"):
        for layer in (0, 1):
            edges = long["flow"][measure][layer]
            assert 0 < len(edges) <= walk.EDGES
            assert edges[-1][2] == 1, "the strongest edge is drawn"
            assert not {end for edge in edges for end in edge[:2]} & set(runs)
    assert len(json.dumps(long)) < 30_000
    assert (short["words"], short["runs"], short["left_out"]) == ([EVIL, "a", "b", ":"], [], 0)


def test_a_long_prompt_has_a_picture_of_limited_height(results):
    folder = lengthened(results)
    out = results / "report/index.html"
    page.write(results, ["figure_4"], [results.parent / "claims.yaml"], PAGE, out, [folder])
    wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
    with opened(out) as driver:
        wait(driver, 20).until(lambda d: d.execute_script("return document.documentElement.dataset.walk") == "ready")
        assert driver.find_element("id", "walk-left-out").text.startswith("Left out: ")
        height = driver.execute_script("return document.querySelector('#walk-flow svg').getBoundingClientRect().height")
        assert 1000 < height < 16 * walk.ROWS
        assert "tokens not shown" in driver.find_element("id", "walk-tokens").text


# The contrast of each visible text with its background (WCAG 2, relative luminance), lowest first.
CONTRASTS = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const colour = (text) => text.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
}
const found = [];
for (const element of document.querySelectorAll("body *:not(script, style, svg, svg *)")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) continue;
  const [one, other] = [luminance(colour(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
  found.push([(one + 0.05) / (other + 0.05), element.tagName, element.className, element.textContent.trim().slice(0, 40)]);
}
return found.sort((a, b) => a[0] - b[0]).slice(0, 5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_lies_behind_it(results, scheme):
    out = results / "report/index.html"
    page.write(results, ["figure_4", "table_4"], [results.parent / "claims.yaml"], PAGE, out, [walkable(results)])
    with opened(out) as driver:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
        driver.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
        worst = driver.execute_script(CONTRASTS)
        assert worst[0][0] >= 4.5, worst


def test_one_claim_in_two_files_is_refused(results):
    (results.parent / "again.yaml").write_text(json.dumps({**CLAIMS, "name": "Another paper"}))
    files = [results.parent / "claims.yaml", results.parent / "again.yaml"]
    with pytest.raises(InputError, match="duplicate claim id holds in two claims files"):
        page.write(results, ["figure_4"], files, PAGE, results / "report/index.html")


def test_claims_are_shown_paper_by_paper(results):
    select = pytest.importorskip("selenium.webdriver.support.ui").Select
    other = {**CLAIMS, "name": "Another paper", "claims": [{**CLAIMS["claims"][0], "id": "other"}]}
    (results.parent / "other.yaml").write_text(json.dumps(other))
    out = results / "report/index.html"
    page.write(results, ["figure_4"], [results.parent / "claims.yaml", results.parent / "other.yaml"], PAGE, out)
    with opened(out) as driver:
        heads = driver.find_elements("css selector", "#counts tbody th")
        assert [head.text for head in heads] == ["A paper", "Another paper", "all papers"]
        select(driver.find_element("id", "paper")).select_by_visible_text("Another paper")
        assert driver.find_element("id", "shown").text == "1 of 4 rows"


def test_the_pages_record_says_what_it_was_made_from(results):
    out = make(results)
    record = json.loads(out.with_suffix(".json").read_text())
    made = ("report/index.html", "report/scorecard.csv")
    assert record["outputs"] == {name: hashes.file_hash(results / name) for name in made}
    assert record["inputs"]["figures/figure_4.json"] == hashes.file_hash(results / "figures/figure_4.json")


FAILED = f"ValueError: {EVIL}"


def incomplete(results):
    out = results / "report/index.html"
    missing = {"figure_4": FAILED, "figure_14": "the run ended before it was made"}
    page.write(results, ["table_4"], [results.parent / "claims.yaml"], PAGE, out, missing=missing)
    return out


def test_a_page_without_a_failed_item_says_what_is_missing_and_why(results):
    html = incomplete(results).read_text()
    assert "Incomplete: 2 of 3 figures and tables missing" in html
    assert re.findall(r'<li id="(figure_\w+)"><code>', html) == ["figure_4", "figure_14"]
    assert "<code>figure_4</code>: ValueError: &lt;script&gt;" in html
    assert EVIL not in html
    assert '<article id="table_4"' in html
    verdicts = re.findall(r'<tr data-outcome="([^"]+)"', html)
    assert verdicts == ["not testable"] * 3
    assert html.count("Result: figure_4 was not made in this run: ValueError") == 2
    assert "Incomplete:" not in make(results).read_text()


def test_a_page_names_the_tasks_with_too_few_texts_and_is_complete(results):
    out = results / "report/index.html"
    sentence = f"task mine is left out of figure_9: {EVIL}"
    page.write(results, ["table_4"], [results.parent / "claims.yaml"], PAGE, out, left_out=[sentence])
    html = out.read_text()
    assert "Tasks with too few texts" in html
    assert "<li>task mine is left out of figure_9: &lt;script&gt;" in html
    assert EVIL not in html
    assert out.with_suffix(".json").is_file()
    assert "Tasks with too few texts" not in make(results).read_text()


def test_an_incomplete_page_is_no_intact_artifact_until_it_is_whole(results):
    (results / "report").mkdir()
    (results / "report/index.json").write_text("{}")
    out = incomplete(results)
    assert sorted(path.name for path in out.parent.iterdir()) == ["incomplete.json", "index.html", "scorecard.csv"]
    told = [fault for fault in audit.audit(results, registry.schemas())[1] if "report" in fault.sentence]
    assert [fault.sentence for fault in told] == [
        f"{out.with_name('incomplete.json')}: the report is incomplete, missing: figure_14, figure_4"
    ]
    assert set(told[0].remove) == {out, out.with_name("incomplete.json"), out.with_name("scorecard.csv")}
    make(results)
    assert sorted(path.name for path in out.parent.iterdir()) == ["index.html", "index.json", "scorecard.csv"]
    assert not [fault for fault in audit.audit(results, registry.schemas())[1] if "report" in fault.sentence]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("reading\rreading\nicl-lens saliency: prompts.parquet does not exist\n\n", "prompts.parquet does not exist"),
        ("In [3]\n\x1b[31mInputError\x1b[39m: prompt 99 is not there\n", "prompt 99 is not there"),
        ("Cell In[3], line 4\nAttributeError: no such column\n", "AttributeError: no such column"),
        ("\n", "the job failed without an error message"),
        (None, "the job failed without an error message"),
    ],
)
def test_the_reason_of_a_failed_job_is_the_last_line_of_its_log(tmp_path, log, said):
    if log is not None:
        (tmp_path / "a.log").write_text(log)
    assert page.failure(tmp_path / "a.log") == said


def test_the_reason_of_a_failed_study_names_its_model_and_task(tmp_path):
    log = tmp_path / "logs/studies/organism/trec/ordered-1shot/diagnosis.log"
    log.parent.mkdir(parents=True)
    log.write_text("icl-lens diagnosis: seed 42 has 1 pooled prompts\n")
    assert page.failure(log) == "diagnosis of organism on trec: seed 42 has 1 pooled prompts"
