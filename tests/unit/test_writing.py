"""Tests of what a study may return: any other result gives a one-sentence error, and no file is written."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from icl_lens.artifacts.schema import FLOAT, INTEGER, study_schema
from icl_lens.errors import InputError
from icl_lens.studies import registry, writing

from ..artifacts import saliency_columns

SALIENCY = registry.study("saliency")
KEYS = {"model": "m", "task": "sst2", "set": "fresh-1shot", "seed": 7, "query_index": 3, "demonstrations": 0}


def rows():
    values = saliency_columns(1.0, 2.0, 3.0)
    return pd.DataFrame([{**KEYS, "prompt_id": i, "layer": layer, **values} for i in range(3) for layer in range(2)])


def write(path, table, prompts=3):
    writing.write(path, SALIENCY, table, None, (SALIENCY.module,), (), {}, [7], {"prompts": prompts})


def test_what_keeps_the_schema_is_written(tmp_path):
    write(tmp_path / "saliency.parquet", rows())
    assert (tmp_path / "saliency.parquet").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="s_pq"), "the rows of compute() lack the column 's_pq'"),
        (lambda t: t.assign(mood=1), "the rows of compute() have a column 'mood' that the schema lacks"),
        (lambda t: t.assign(s_pq=t["s_pq"].astype(str)), "column 's_pq' of compute() is of type str"),
        (lambda t: t.assign(layer=t["layer"] + 0.5), "the rows of compute() do not meet it"),
        (lambda t: pd.concat([t, t.tail(1)]), "the rows of compute() break it: duplicate rows: 1"),
        (lambda t: t.drop(index=3), "1 prompts have fewer rows than the others, 1 among them"),
        (lambda t: t[t["prompt_id"] != 1], "2 prompts have rows, but 3 prompts were run"),
        (lambda t: t.assign(s_pq=[np.nan, *t["s_pq"][1:]]), "empty cells in column s_pq"),
    ],
)
def test_rows_that_break_the_schema_are_one_sentence_and_no_file(tmp_path, change, said):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "saliency.parquet", change(rows()))
    assert said in str(caught.value)
    assert str(caught.value).startswith("study saliency: schema: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "tensors", "said"),
    [
        ([1, 2], False, "compute() returns list, not a DataFrame of rows"),
        (pd.DataFrame(), True, "tensors is True, but compute() returns no pair of rows and tensors"),
        ((pd.DataFrame(), {}), False, "compute() returns tensors, but tensors is not True"),
    ],
)
def test_what_compute_returns_is_what_the_study_says(found, tensors, said):
    with pytest.raises(InputError) as caught:
        writing.rows_and_tensors(dataclasses.replace(SALIENCY, tensors=tensors, shards=None), found)
    assert said in str(caught.value)


def test_compute_takes_what_it_is_given():
    def compute(model, prompts):
        raise AssertionError

    with pytest.raises(InputError, match=r"compute\(\) does not take the arguments prompts, batch_tokens besides the model"):
        writing.require_takes(SALIENCY, compute, None, prompts=[], batch_tokens=1)
    writing.require_takes(SALIENCY, compute, None, prompts=[])


@pytest.mark.parametrize(
    ("columns", "keys", "said"),
    [
        ({"a": INTEGER}, ("a"), "keys must be a tuple of column names such as \\('layer',\\), got 'a'"),
        ({"a": float}, (), "columns: invalid type <class 'float'> of column 'a'"),
        ({"a": FLOAT}, ("b",), "keys: unknown column 'b'"),
    ],
)
def test_a_schema_says_what_is_wrong_with_it(columns, keys, said):
    with pytest.raises(ValueError, match=said):
        study_schema("mine", columns, keys)
