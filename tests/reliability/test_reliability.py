"""The reliability cases as tests: the quick ones in each test run, the others in `make test-long`."""

import io
import shutil

import pytest

from . import bad_inputs, damages, interruptions, kills
from .table import REPOSITORY, page
from .tiny_run import TinyRun
from .workspace import Place

CASES = [
    pytest.param(case, id=f"{area}: {case.name}", marks=[pytest.mark.long] if case.slow or not case.is_plain else [])
    for area, cases in bad_inputs.CASES.items()
    for case in cases
]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The folder with the files of the tools."""
    return tmp_path_factory.mktemp("tools") / "shared"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished small run, the hashes of its results, the number of its files, and a copy of all its files."""
    tiny = TinyRun(tmp_path_factory.mktemp("small") / "a run")
    expected, files = tiny.uninterrupted()
    intact = tiny.clone.folder.with_name("intact")
    shutil.copytree(tiny.clone.folder, intact, symlinks=True)
    return tiny, expected, files, intact


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_input_gives_a_one_line_error(case, shared, tmp_path, monkeypatch, capsys):
    place = Place(tmp_path / "case", shared)
    if case.is_plain:
        monkeypatch.chdir(place.folder)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        outcome = bad_inputs.run_here(case, place, capsys.readouterr)
    else:
        outcome = bad_inputs.run(case, place, REPOSITORY)
    assert outcome.faults == (), outcome.answer


def test_there_are_enough_cases_with_unique_names():
    names = [case.name for cases in bad_inputs.CASES.values() for case in cases]
    assert len(set(names)) == len(names) >= 40
    assert len({damage.name for damage in damages.DAMAGES}) == len(damages.DAMAGES) >= 25
    assert len({kill.moment for kill in kills.plan()}) == 20


def test_the_page_counts_failed_cases():
    good, bad = ["a.csv: | is unknown", []], ["x", ["traceback"]]
    text = page(
        {
            "killed runs: 1": good,
            "damaged files: a": good,
            "damaged files: b": bad,
            "interruptions: c": good,
            "invalid inputs: d": bad,
        }
    )
    assert "**Killed runs: 1 of 1 resumed.**" in text
    assert "**Damaged files: 1 of 2 found and repaired.**" in text
    assert "**Invalid inputs: 1 of 2 passed.**" in text
    assert "| a | `a.csv: \\| is unknown` |" in text
    assert "| b | **failed**: traceback `x` |" in text


@pytest.mark.long
@pytest.mark.parametrize("kill", kills.plan(3), ids=lambda kill: kill.name)
def test_a_killed_run_is_resumed_to_the_same_bytes(kill, small_run):
    tiny, expected, files, _ = small_run
    assert kills.check(kill, tiny, expected, files)[1] == ()


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["two corpora swapped", "a number changed, with correct checksums", "tables/kr_table_3.json deleted"]
)
def test_a_damaged_file_is_found_and_repaired(name, small_run):
    tiny, expected, _, intact = small_run
    damage = next(damage for damage in damages.DAMAGES if damage.name == name)
    assert damages.check(damage, tiny, expected, intact)[1] == ()


@pytest.mark.long
@pytest.mark.parametrize("name", interruptions.CASES)
def test_another_interruption_changes_no_byte(name, small_run):
    tiny, expected, _, _ = small_run
    assert interruptions.CASES[name](tiny, expected)[1] == ()
