"""Tests of the generators of representation change: each number of the recipe, no copied text and correct spans."""

import re
from itertools import pairwise

import pytest

from icl_lens.config import parse
from icl_lens.errors import InputError
from icl_lens.studies.representation_change import lines, paired_prompts, reading
from icl_lens.studies.representation_change.settings import Lines, Reading, Settings
from tests import artifacts

LIST = re.compile(r"\((\d\.\d\d),(\d+\.\d)\)")


@pytest.fixture(scope="module")
def listed():
    return lines.build(Lines(), 42)


@pytest.fixture(scope="module")
def told():
    return reading.build(Reading(queries=100), 42)


def points(text):
    return [(float(x), float(y)) for x, y in LIST.findall(text)]


def written(row, name):
    return [row.text[start:end] for start, end in getattr(row, f"{name}_spans")]


def test_sixteen_lines_have_as_many_queries_in_every_condition(listed):
    assert listed.groupby("group")["query_id"].nunique().eq(4).all()
    assert listed["group"].nunique() == 16
    assert len(listed) == 64 * 9
    conditions = listed.groupby("query_id")[["examples", "control"]].apply(
        lambda of: sorted(of.itertuples(index=False, name=None))
    )
    expected = [(0, False), (1, False), (1, True), (2, False), (2, True), (4, False), (4, True), (8, False), (8, True)]
    assert all(found == expected for found in conditions)


def test_the_recollected_study_is_a_setting(listed):
    assert len(lines.build(Lines(queries_per_line=16, examples=[0, 1]), 42)["query_id"].unique()) == 256
    assert {len(points(t)) for t in lines.build(Lines(points=[2, 8], examples=[0, 1]), 1).query("examples == 0")["text"]} == {
        2,
        8,
    }


def test_shown_points_lie_on_the_line_and_the_truth_does(listed):
    for row in listed.query("examples == 0").itertuples():
        slope, intercept = map(float, row.components)
        for x, y in [*points(row.text), (row.place, float(row.truth))]:
            assert abs(slope * x + intercept - y) <= 0.0501
        assert row.text.endswith(f"; ({row.place:.2f},")


def test_places_are_apart_and_inside_the_range(listed):
    for row in listed.query("examples == 0").itertuples():
        xs = sorted([x for x, _ in points(row.text)] + [row.place])
        assert len(xs) == 4
        assert xs[0] >= 0.05
        assert xs[-1] <= 0.99
        assert all(b - a >= 0.0299 for a, b in pairwise(xs))


def test_no_example_is_of_the_querys_line(listed):
    for row in listed.query("examples == 8 and not control").itertuples():
        slope, intercept = map(float, row.components)
        *examples, _ = row.text.split("\n")
        assert len(examples) == 8
        for example in examples:
            assert any(abs(slope * x + intercept - y) > 0.06 for x, y in points(example))


def test_a_control_is_the_same_but_for_the_order_of_its_heights(listed):
    both = listed.query("examples == 4").sort_values(["query_id", "control"])
    for (_, plain), (_, control) in zip(both[~both["control"]].iterrows(), both[both["control"]].iterrows(), strict=True):
        assert plain["text"].split("\n")[-1] == control["text"].split("\n")[-1]
        for one, other in zip(plain["text"].split("\n")[:-1], control["text"].split("\n")[:-1], strict=True):
            assert sorted(y for _, y in points(one)) == sorted(y for _, y in points(other))
            assert [x for x, _ in points(one)] == [x for x, _ in points(other)]
            assert points(one)[-1] != points(other)[-1] or len({y for _, y in points(one)}) < 4
        assert len(plain["text"]) == len(control["text"])


def test_spans_of_lists_are_heights_places_and_examples_heights(listed):
    for row in listed.query("examples == 2").itertuples():
        start, end = row.query_span
        assert row.text[start:end].startswith(lines.OPENING)
        assert end == len(row.text)
        shown = points(row.text[start:end])
        assert [float(y) for y in written(row, "relevant")] == [y for _, y in shown]
        assert [float(x) for x in written(row, "irrelevant")] == [x for x, _ in shown]
        assert [float(y) for y in written(row, "context")] == [y for _, y in points(row.text[:start])]
        begin, stop = row.ending_span
        assert row.text[begin:stop] == f"({row.place:.2f},"
        assert row.candidates[row.truth_candidate] == f"{row.truth})"


def test_all_pairs_of_the_reading_grid_are_asked_about(told):
    of_one = told.query("examples == 0 and distractors == 1")
    assert len(of_one) == 100
    assert of_one["group"].nunique() == 100
    assert {name for row in of_one["components"] for name in row[:1]} == set(reading.NAMES)


def test_the_informative_sentence_stands_everywhere_equally_often(told):
    for distractors in (0, 1, 2):
        counts = told.query("examples == 0 and distractors == @distractors")["position"].value_counts()
        assert len(counts) == distractors + 1
        assert counts.max() - counts.min() <= 1


def test_distractors_share_neither_name_nor_activity_with_the_answer(told):
    for row in told.query("distractors == 2").itertuples():
        start, end = row.query_span
        query = row.text[start:end]
        assert len({row.truth, *row.competing}) == 3
        assert query.count(row.truth) == 1
        assert query.count(row.components[0]) == 2  # once in its sentence and once in the question
        assert row.text.endswith(f"Question: What is {row.components[0]} doing? Answer:")


def test_nothing_of_the_grid_stands_in_an_example(told):
    for row in told.query("examples == 2").itertuples():
        before = row.text[: row.query_span[0]]
        assert before.count("Question:") == 2
        assert not any(name in before for name in reading.NAMES)
        assert not any(activity in before for activity in reading.ACTIVITIES)


def test_solved_examples_are_right_and_the_controls_answers_stand_nowhere(told):
    for row in told.query("examples == 2").itertuples():
        for example in row.text[: row.query_span[0]].strip().split("\n"):
            story, answer = example.split(" Answer: ")
            asked = re.search(r"What is (\w+) doing", story)[1]
            answer = answer.rstrip(".")
            assert (f"{asked} is {answer}." in story) == (not row.control)
            assert (answer in story) == (not row.control)


def test_spans_of_stories_are_activities_and_answers(told):
    for row in told.query("examples == 2 and distractors == 2").itertuples():
        assert written(row, "relevant") == [row.truth]
        assert sorted(written(row, "irrelevant")) == sorted(row.competing)
        assert len(written(row, "context")) == 2
        assert row.text[slice(*row.ending_span)] == "Answer:"
        assert row.candidates[row.truth_candidate] == f" {row.truth}."


def test_the_grids_have_no_content_word_twice():
    for activities in (reading.ACTIVITIES, reading.EXAMPLE_ACTIVITIES):
        words = [word for a in activities for word in a.split() if word not in ("a", "the", "some")]
        assert len(set(words)) == len(words)
    assert not set(reading.NAMES) & set(reading.EXAMPLE_NAMES)


def test_the_bare_format_ends_with_the_question():
    row = reading.build(Reading(format="bare", queries=20), 1).iloc[-1]
    assert row["text"].endswith(f" What is {row['components'][0]} doing?")
    assert "Answer" not in row["text"].split("\n")[-1]
    assert row["text"][slice(*row["ending_span"])] == f"What is {row['components'][0]} doing?"


def test_a_seed_gives_the_same_prompts_and_another_others():
    small = Lines(queries_per_line=1, examples=[0, 1])
    assert lines.build(small, 3).equals(lines.build(small, 3))
    assert not lines.build(small, 3).equals(lines.build(small, 4))


def test_prompts_are_written_as_an_artifact_of_their_kind(tmp_path):
    out = tmp_path / "results" / "prompts" / "reading" / "paired.parquet"
    paired_prompts.write("reading", Settings(reading=Reading(queries=20, distractors=[1])), out)
    table, about = artifacts.read(out, "paired_prompts")
    assert len(table) == 100
    assert about["task"] == {"name": "reading", "title": "Who is doing what"}
    with pytest.raises(InputError, match="is a paired_prompts table; expected a prompts table"):
        artifacts.read(out, "prompts")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lines": {"examples": [1, 2]}}, "examples must contain 0, the baseline,"),
        ({"lines": {"examples": [0, 16]}}, "examples contains 16, but the grid has only 15 other lines"),
        ({"reading": {"examples": [0]}}, "examples"),
        ({"lines": {"slope": [1.0]}}, "did you mean 'slopes'"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_sentence(keys, said):
    with pytest.raises(InputError, match=said):
        parse.parse({"studies": {"representation_change": keys}})
