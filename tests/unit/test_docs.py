"""Tests of the documentation site: the generated pages, the strict build, and the built pages in a browser."""

import fcntl
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import types

import pytest
from markupsafe import Markup

import icl_lens
from icl_lens.report.claims import Claim, Paper
from icl_lens.studies import registry

from ..browser import complaints, opened
from ..conftest import REPOSITORY

pytest.importorskip("mkdocs", reason="the packages of the extra `docs` are not installed")

import markdown as python_markdown

from site_generator import api, command_line, items, layout, markdown, papers, results, tutorials

# Without --quiet, because MkDocs does not count warnings that it does not print.
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict"]
EXTENSIONS = ["attr_list", "tables", "pymdownx.details", "pymdownx.superfences"]


def as_text(page):
    """Return the text of a Markdown page as a reader sees it."""
    return Markup(python_markdown.markdown(page, extensions=EXTENSIONS)).striptags()


@pytest.fixture(scope="module")
def pages():
    return papers.pages()


def test_every_group_has_a_page_and_is_in_the_index(pages):
    assert set(pages) == {f"papers/{name}.md" for name in registry.groups()}
    assert all(f"]({name}.md)" in papers.index() for name in registry.groups())


@pytest.mark.parametrize("group", registry.groups())
def test_the_page_of_a_group_has_its_studies_items_and_claims(pages, group):
    text = as_text(pages[f"papers/{group}.md"])
    assert [study.name for study in registry.studies().values() if study.group == group and study.name not in text] == []
    assert [item.name for item in registry.items().values() if item.group == group and item.name not in text] == []
    claims = results.papers()[group].claims if group in results.papers() else []
    assert [claim.id for claim in claims if " ".join(claim.statement.split()) not in text] == []


def test_a_group_without_a_paper_has_a_description_and_its_pictures(pages):
    page = pages["papers/organism.md"]
    assert "training of the embedded model" in page
    assert "](../organism_learning_curve.png)" in page
    assert "| studies |" not in page


def test_the_page_of_a_paper_has_the_verdicts_of_both_runs(pages):
    text = as_text(pages["papers/anchors.md"])
    (gemma, embedded) = results.scorecards()
    for card in (gemma, embedded):
        row = card.rows["Label Words are Anchors", "shallow-gather"]
        assert f"{card.title}: {row['verdict']}: {' '.join(row['ours'].split())}" in text
    assert gemma.counts("Label Words are Anchors") == [23, 4, 4, 0, 68]


# Groups that Gemma has not been run on yet.
NOT_RUN = {"challenges"}


def test_a_committed_scorecard_has_every_claim_as_it_is_today():
    for card, not_run in zip(results.scorecards(), (NOT_RUN, set()), strict=True):
        papers_run = [paper for group, paper in results.papers().items() if group not in not_run]
        today = {(paper.name, claim.id): claim.statement for paper in papers_run for claim in paper.claims}
        assert {key: row["statement"] for key, row in card.rows.items()} == today, card.title


def test_a_claim_is_escaped(monkeypatch, pages):
    hostile = "<script>alert(1)</script> *a* _b_ | `c` [d](e) $f$ &amp; {.g}"
    claim = Claim(id="x", item="figure_3", where=hostile, statement=hostile, rule={"above": 0, "rows": {"a": hostile}})
    paper = Paper(name=hostile, reference=hostile, models=[hostile], claims=[claim])
    monkeypatch.setattr(papers, "papers", lambda: {"anchors": paper})
    page = papers.pages()["papers/anchors.md"]
    built = python_markdown.markdown(page, extensions=EXTENSIONS)
    assert "<script" not in built
    assert as_text(page).count(hostile.replace("&amp;", "&amp;")) >= 5
    assert (
        hostile
        in Markup(
            re.search(
                r"<td>(.*?)</td>",
                python_markdown.markdown(markdown.table(["a"], [[markdown.text(hostile)]]), extensions=EXTENSIONS),
                re.DOTALL,
            )[1]
        ).unescape()
    )


def test_every_item_is_in_the_gallery_with_the_command_that_makes_it():
    page = items.gallery()
    for item in registry.items().values():
        assert f"{{#{items.anchor(item)}}}" in page
        assert f"\n{items.command(item)}\n" in page
    assert items.command(registry.items()["figure_3"]) == ".venv/bin/snakemake figure_3 --cores all"
    assert items.config_of(registry.items()["table_precision"]) == "config/precision.yaml"
    assert items.config_of(registry.items()["cr_figure_3"]) == "config/training-dynamics.yaml"


def test_every_committed_picture_of_an_item_is_in_the_gallery():
    page = items.gallery()
    committed = [f"gemma/{path.name}" for path in (layout.DOCS / "gemma").glob("*.png")]
    committed += [path.name for path in layout.DOCS.glob("*.png")]
    assert [name for name in committed if f"]({name})" not in page] == []


def test_generated_content_has_a_place_in_its_document():
    documents = {path.relative_to(layout.DOCS).as_posix() for path in layout.DOCS.rglob("*.md")}
    marked = {name for name in documents if "\n<!-- generated -->\n" in (layout.DOCS / name).read_text(encoding="utf-8")}
    assert marked == {items.GALLERY, papers.INDEX, api.ADDRESS, "reference/command-line.md"}


def test_every_command_is_in_the_reference():
    from icl_lens.cli import commands

    page = command_line.page()
    for command in commands._app([], []).registered_commands:
        assert f"\n### {command.name}\n" in page


def test_every_public_name_is_in_the_reference():
    page = api.page()
    assert [name for name in api.public_names() if not re.search(rf"\bicl_lens\.{name}\b", page)] == []


def test_a_public_name_without_a_docstring_is_an_error(monkeypatch):
    class Public:
        """A class."""

        def method(self):
            pass

    monkeypatch.setattr(icl_lens, "__all__", ["Public"], raising=False)
    monkeypatch.setattr(icl_lens, "Public", Public, raising=False)
    with pytest.raises(api.MissingDocstringError, match=r"icl_lens\.Public\.method; write one"):
        api.page()


def test_functions_without_a_source_and_modules_are_documented(monkeypatch):
    def create():
        def saliency(model, prompts, **settings: float) -> int:
            """Compute the flow.

            Args:
                model: The model.
                prompts: The prompts, e.g. `a`.

            Returns:
                One row per prompt.

            Raises:
                InputError: No label word is found.
            """

        return saliency

    plot = types.ModuleType("plot", "Draw frames.")
    plot.saliency, plot.__all__ = create(), ["saliency"]
    monkeypatch.setattr(icl_lens, "__all__", ["InputError", "plot", "saliency"], raising=False)
    for name, value in {"saliency": create(), "plot": plot, "InputError": icl_lens.errors.InputError}.items():
        monkeypatch.setattr(icl_lens, name, value, raising=False)
    page = api.page()
    assert "::: icl_lens.errors.InputError\n    options:\n      heading: icl_lens.InputError" in page
    assert "\nsaliency(model, prompts, **settings: float) -> int\n" in page
    assert "- <code>prompts</code>: The prompts, e.g. `a`." in page
    assert "- <code>InputError</code>: No label word is found." in page
    assert "## icl_lens.plot\n\nDraw frames." in page
    assert "\nplot.saliency(model" in page
    assert "{#icl_lens.plot.saliency data-toc-label" in page


def test_a_long_signature_has_one_line_per_parameter(monkeypatch):
    def create():
        def flow(model: icl_lens.errors.InputError, *, draws: int = 12345678, positions: tuple[int, ...] = (1, 2, 3)) -> None:
            """Compute the flow."""

        return flow

    monkeypatch.setattr(icl_lens, "__all__", ["flow"], raising=False)
    monkeypatch.setattr(icl_lens, "flow", create(), raising=False)
    lines = ["flow(", "    model: InputError,", "    *,", "    draws: int = 12345678,"]
    lines += ["    positions: tuple[int, ...] = (1, 2, 3),", ") -> None"]
    assert "\n".join(lines) in api.page()


def test_references_of_docstrings_are_code():
    html = "<p>See :meth:<code>parse</code> and :class:<code>~icl_lens.api.Model</code>, not <code>:class:</code>.</p>"
    expected = "<p>See <code>parse</code> and <code>Model</code>, not <code>:class:</code>.</p>"
    assert markdown.without_roles(html) == expected


def test_a_notebook_becomes_a_page_with_its_outputs(monkeypatch, tmp_path):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    frame = {"text/html": ["<div><style scoped>td {}</style><table class='dataframe'><tr><td>7</td></tr></table></div>"]}
    outputs = [
        {"output_type": "display_data", "data": {"image/png": pixel}, "metadata": {}},
        {"output_type": "execute_result", "data": frame, "metadata": {}, "execution_count": 1},
    ]
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Flow in one prompt"},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "1 + 1", "outputs": outputs, "execution_count": 1},
    ]
    folder = tmp_path / "tutorials"
    folder.mkdir()
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "flow.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr(tutorials, "DOCS", tmp_path)
    found = tutorials.pages.__wrapped__()
    assert set(found) == {"tutorials/index.md", "tutorials/flow.md", "tutorials/flow/flow_1_0.png"}
    assert "- [Flow in one prompt](flow.md)" in found["tutorials/index.md"]
    page = found["tutorials/flow.md"]
    assert "flow/flow_1_0.png" in page
    assert "<td>7</td>" in page
    assert "style scoped" not in page


@pytest.mark.parametrize(
    ("address", "link", "expected"),
    [
        ("index.md", "[a](docs/scale.md#shards)", "[a](scale.md#shards)"),
        ("index.md", "[a](CITATION.cff)", "a"),
        ("concepts.md", "[a](papers/)", "[a](papers/index.md)"),
        ("config/README.md", "[`x`](../docs/gguf.md)", "[`x`](../gguf.md)"),
        ("scale.md", "[a](../profiles/slurm/README.md)", "[a](profiles/slurm/README.md)"),
        ("extending.md", "[`item.py`](../src/icl_lens/studies/item.py)", "`item.py`"),
        ("extending.md", "[a](../no-such-file.md)", "[a](../no-such-file.md)"),
        ("scale.md", "`[a](../README.md)` and [b](../README.md)", "`[a](../README.md)` and [b](index.md)"),
        (
            "scale.md",
            "```\n[a](../README.md)\n```\n[b](https://example.org)",
            "```\n[a](../README.md)\n```\n[b](https://example.org)",
        ),
    ],
)
def test_a_link_of_the_repository_becomes_a_link_of_the_site(address, link, expected):
    assert layout.Layout().with_links(link, address) == expected


def test_a_link_to_a_notebook_leads_to_its_page():
    with_notebook = layout.Layout(generated=frozenset(["tutorials/flow.md", "tutorials/flow/flow_1_0.png"]))
    assert with_notebook.with_links("[a](tutorials/flow.ipynb#b)", "scale.md") == "[a](tutorials/flow.md#b)"
    assert with_notebook.with_links("![a](flow/flow_1_0.png)", "tutorials/flow.md") == "![a](flow/flow_1_0.png)"


def test_a_link_to_code_leads_to_the_repository_if_it_is_on_the_web():
    with_address = layout.Layout(repo_url="https://example.org/r/")
    assert with_address.with_links("[a](../src/x)", "scale.md") == "[a](../src/x)"  # does not exist
    expected = "[a](https://example.org/r/blob/main/src/icl_lens)"
    assert with_address.with_links("[a](../src/icl_lens)", "scale.md") == expected


def test_the_readme_is_one_screen_and_has_the_numbers_of_the_scorecard():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 75
    gemma = results.scorecards()[0]
    assert "`challenges`" in readme
    for group, paper in results.papers().items():
        if group in NOT_RUN:
            continue
        counts = r" \| ".join(map(str, gemma.counts(paper.name)[:-1]))
        assert re.search(rf"^\|.*\| `{group}` \| {counts} \|$", readme, re.MULTILINE), group


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """Return the folder of the site, built once for all processes of the test run."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "site"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "NO_MKDOCS_2_WARNING": "1"}
    with (folder.parent / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            command = [*BUILD, "--site-dir", folder]
            run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
            (folder.parent / "site.log").write_text(f"{run.returncode}\n{run.stdout}{run.stderr}")
        status, log = (folder.parent / "site.log").read_text().split("\n", 1)
    assert status == "0", log
    return folder


@pytest.fixture(scope="session")
def worker_id(request):
    """Return the name of this process of pytest-xdist."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


def test_the_strict_build_has_every_page(site):
    for name in registry.groups():
        assert (site / f"papers/{name}.html").is_file()
    for address in ("index.html", "concepts.html", "gallery.html", "reference/api.html", "config/reference.html"):
        assert (site / address).is_file()
    assert not list(site.rglob("*.py"))


def test_a_broken_link_and_a_page_without_a_place_fail_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A\n\n[a](no.md) [b](#c)\n")
    (tmp_path / "docs/lost.md").write_text("# B\n")
    inherited = f"INHERIT: {REPOSITORY / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nplugins: [search]\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(inherited)
    run = subprocess.run(BUILD, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    for warning in ("link 'no.md'", "link '#c'", "  - lost.md", "Aborted with 3 warnings"):
        assert warning in run.stdout + run.stderr
    assert "mkdocs build --strict\n" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def test_no_built_page_loads_anything_from_another_host(site):
    tags = re.compile(r"<(?:script|img|iframe|source|link|video|audio)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    loaded = {
        (page.name, address) for page in site.rglob("*.html") for address in tags.findall(page.read_text(encoding="utf-8"))
    }
    assert loaded == set()


def test_names_in_tables_may_break():
    row = "<td><code>a.b_c&#95;d</code> e.f</td>"
    assert markdown.with_breaks(f"<code>a.b</code>{row}") == (
        "<code>a.b</code><td><code>a.<wbr>b_<wbr>c&#95;<wbr>d</code> e.f</td>"
    )


def test_equations_are_mathml(site):
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    assert concepts.count("<math") > 20
    assert "arithmatex" not in concepts


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *arguments):
        """Print nothing."""


@pytest.fixture
def address(site):
    """Yield the address of a server of the site."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


PAGES = ("index", "concepts", "papers/anchors", "gallery", "reference/api", "reference/command-line")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_in_a_browser(address, width):
    with opened(f"{address}/index.html", width) as driver:
        for scheme, name in (("light", "default"), ("dark", "slate")):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.execute_script("localStorage.clear()")
            for page in PAGES:
                driver.get(f"{address}/{page}.html")
                assert driver.execute_script("return document.body.dataset.mdColorScheme") == name
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
                assert driver.execute_script("return document.querySelector('h1').innerText.trim()")
                loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
                assert [other for other in loaded if not other.startswith((address, "data:", "blob:"))] == [], page
                assert complaints(driver) == [], page
