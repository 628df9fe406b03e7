"""The report: what stands in it, that it needs nothing else, and that no text of a data set becomes markup."""

import json
import re

import pandas as pd
import pytest

from icl_lens import artifacts, provenance, report
from icl_lens.errors import InputError

from ..browser import complaints, opened
from ..conftest import REPOSITORY

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
PAGE = REPOSITORY / "resources/report"
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
    hashes = {path: provenance.file_hash(results / path) for path in inputs}
    artifacts.write(results / name, pd.DataFrame(rows), artifacts.describe(kind, "icl_lens.artifacts", hashes, {}, [7], **more))


@pytest.fixture
def results(tmp_path):
    """A results folder with one figure and one table, made from artifacts whose texts are markup."""
    results = tmp_path / "results"
    task = {"name": "sst2", "title": EVIL, "template": "", "label_words": [" a", " b"]}
    more = {"corpus": {"source": "builtin"}, "task": task}
    write_table(results, "corpora/sst2.parquet", "corpora", [{"split": "train", "index": 0, "text": EVIL, "label": 0}])
    keys = {"model": "m", "task": "sst2", "set": "shared-1shot", "seed": 7, "prompt_id": 0}
    condition = {"target": "label", "side": "first", "layers": 1, "draw": 0, "prediction": 0, "label_agrees": True}
    write_table(
        results,
        "studies/m/sst2/shared-1shot/isolation.parquet",
        "isolation",
        [{**keys, **condition, "word_jaccard_5": 1.0, "word_jaccard_10": 1.0}],
        inputs=["corpora/sst2.parquet"],
        model={"name": "m", "family": "gpt2", "layers": 2, "parameters": 1000},
        dtype="float32",
        device="cpu",
        observed={"prompts": 3, "untrained": False, "left_out": 0, "unknown_tokens": 0.0},
        **more,
    )
    inputs = ["studies/m/sst2/shared-1shot/isolation.parquet"]
    for item, endings in (("figures/figure_4", ("csv", "svg", "pdf", "png")), ("tables/table_4", ("csv", "md", "tex"))):
        (results / item).parent.mkdir(parents=True, exist_ok=True)
        for ending in endings:
            (results / f"{item}.{ending}").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        shown = pd.DataFrame([{"model": "m", "task": EVIL, "value": 0.912345678, "low": 0.8, "high": 1.0, "prompts": 3}])
        shown.to_csv(results / f"{item}.csv", index=False)
        made = {f"{item}.{ending}": "0" * 64 for ending in endings}
        hashes = {path: provenance.file_hash(results / path) for path in inputs}
        (results / f"{item}.json").write_text(json.dumps({"inputs": hashes, "outputs": made}))
    (tmp_path / "claims.yaml").write_text(json.dumps(CLAIMS))  # JSON is YAML
    return results


def make(results, items=("figure_4", "table_4")):
    out = results / "report/index.html"
    report.write(results, items, [results.parent / "claims.yaml"], PAGE, out)
    return out


def test_the_page_says_what_held_and_from_what(results):
    html = make(results).read_text()
    found = dict(re.findall(r'<tr data-outcome="([^"]+)">\s*<td[^>]*><span id="claim-(\w+)', html))
    assert found == {"same pattern": "holds", "another pattern": "fails", "not testable here": "absent"}
    assert "0.912 [0.800, 1.000]" in html
    assert 'href="../corpora/sst2.parquet"' in html
    assert provenance.file_hash(results / "corpora/sst2.parquet")[:12] in html
    assert "3 prompts a task over seeds 7; float32 on cpu" in html


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
    (alt,) = re.findall(r'alt="([^"]+)"', make(results).read_text())
    assert "m: another pattern (It fails)." in alt


def test_a_missing_figure_is_told_in_one_sentence(results):
    (results / "figures/figure_4.csv").unlink()
    with pytest.raises(InputError, match="figure_4 is missing or damaged; `snakemake figure_4 --cores all` makes it"):
        make(results)
    assert not (results / "report/index.html").exists()


def test_in_a_browser_it_sorts_filters_and_takes_no_orders_from_data(results):
    Select = pytest.importorskip("selenium.webdriver.support.ui").Select  # noqa: N806
    with opened(make(results)) as driver:
        rows = driver.find_elements("css selector", "#claims tbody tr")

        def shown():
            return [
                row.get_attribute("data-outcome")
                for row in driver.find_elements("css selector", "#claims tbody tr")
                if row.is_displayed()
            ]

        assert len(rows) == 3
        outcome = Select(driver.find_element("css selector", "#outcome"))
        outcome.select_by_visible_text("same pattern")
        assert shown() == ["same pattern"]
        outcome.select_by_visible_text("every outcome")
        driver.find_element("css selector", "#words").send_keys("nobody")
        assert shown() == ["not testable here"]
        driver.find_element("css selector", "#words").clear()
        driver.find_element("css selector", "#words").send_keys(" ")
        verdict = driver.find_elements("css selector", "#claims thead button")[6]
        verdict.click()
        assert shown() == ["another pattern", "not testable here", "same pattern"]
        verdict.click()
        assert shown() == ["same pattern", "not testable here", "another pattern"]
        assert driver.title == "icl-lens: A paper"
        assert complaints(driver) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(results, width):
    with opened(make(results), width) as driver:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
