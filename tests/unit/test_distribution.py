"""Tests of the metadata for distribution: the version, CITATION.cff, and the entry for the Snakemake workflow catalog."""

import re
import tomllib
from importlib import metadata

import yaml

from icl_lens import resources
from icl_lens.studies import registry

from ..conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
CATALOG = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())


def test_the_version_is_in_one_place():
    assert metadata.version("icl-lens") == PROJECT["version"], "run `make` again after a change of the version"
    assert "version" not in CITATION
    sources = [*(REPOSITORY / "src").rglob("*.py"), REPOSITORY / "setup.py"]
    assert [path for path in sources if f'"{PROJECT["version"]}"' in path.read_text(encoding="utf-8")] == []


def test_the_paper_of_each_claims_file_can_be_cited():
    by_id = {reference["url"].rpartition("/")[2]: reference for reference in CITATION["references"]}
    papers = {}
    for paper in registry.papers():
        claims = yaml.safe_load((resources.CLAIMS / f"{paper}.yaml").read_text(encoding="utf-8"))
        papers |= dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", claims["reference"]), claims["reference"])
    assert set(by_id) == set(papers)
    for number, named in papers.items():
        assert by_id[number]["authors"][0]["family-names"] in named


def test_the_catalog_entry_has_the_keys_that_the_catalog_reads():
    assert set(CATALOG) == {"usage"}
    usage = CATALOG["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": False, "apptainer+conda": False}
    rules = "".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    assert "conda:" in rules, "conda is announced"
    assert "container:" not in rules, "apptainer is not announced"
    assert "report(" in rules, "a report is announced"
    assert (REPOSITORY / "config/README.md").is_file(), "the catalog shows this file"
