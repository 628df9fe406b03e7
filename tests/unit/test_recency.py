import numpy as np
import pandas as pd
import pytest

from icl_lens.artifacts import code, parquet
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.statistics.resampling import Bootstrap
from icl_lens.studies import registry
from icl_lens.studies.run import run
from tests import artifacts, plugins

from ..conftest import REPOSITORY, sentencepiece_like
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table, shared_table
from ..reference import recency as reference

FOLDER = REPOSITORY / "examples/recency"
COMPUTE = "icl_lens.studies.plugins.recency.compute"

# Largest allowed difference from the plain reference in float32, as a share of the largest value.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def study():
    with plugins.added(FOLDER):
        yield registry.study("recency")


def settings(study, **values):
    return study.settings.section(**values)


def plain(model, table, prompts, tokenizer, first_token=False):
    """Return the attention that the reference computes, shape (N, L, D)."""
    found = []
    for row, prompt in zip(table.to_dict("records"), prompts, strict=True):
        offsets = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        demonstrations = reference.demonstration_tokens(row, offsets, len(prompt.ids) - len(offsets), first_token)
        found.append(reference.attention_to_places(model.network, prompt.ids.tolist(), demonstrations))
    model.network.set_attn_implementation("sdpa" if model.network._supports_sdpa else "eager")
    return np.array(found)


def measured(study, model, prompts, budget, **values):
    """Return the attention that the study computes, shape (N, L, D)."""
    rows = study.function("compute")(model, prompts, budget, settings=settings(study, **values))
    return rows["attention"].to_numpy().reshape(len(prompts), model.layers, -1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "shots", "make"), [("trec", 1, shared_table), ("sst2", 2, prompts_table)])
def test_it_agrees_with_the_plain_reference_whatever_the_batch(study, language_model, tokenizer, family, task, shots, make):
    model, table = language_model(family), make(task, shots=shots)
    prompts = tokenize(table, tokenizer)
    expected = plain(model, table, prompts, tokenizer)
    assert expected.max() > 0
    for budget in (2000, 1):
        assert np.abs(measured(study, model, prompts, budget) - expected).max() <= TOLERANCE * expected.max()


def test_a_beginning_of_sequence_token_is_in_no_demonstration(study):
    tokenizer = sentencepiece_like()
    model, table = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {}), shared_table("agnews")
    prompts = tokenize(table, tokenizer)
    expected = plain(model, table, prompts, tokenizer)
    assert np.abs(measured(study, model, prompts, 2000) - expected).max() <= TOLERANCE * expected.max()


def test_the_first_token_counts_where_the_settings_say_so(study, language_model, tokenizer):
    model, table = language_model("gpt2"), prompts_table("sst2", count=3, shots=2)
    prompts = tokenize(table, tokenizer)
    with_it, without = (measured(study, model, prompts, 2000, first_token=value) for value in (True, False))
    expected = plain(model, table, prompts, tokenizer, first_token=True)
    assert np.abs(with_it - expected).max() <= TOLERANCE * expected.max()
    assert (with_it[..., 0] > without[..., 0]).all()
    np.testing.assert_array_equal(with_it[..., 1:], without[..., 1:])


def test_rows_come_prompt_by_prompt_layer_by_layer_place_by_place(study, language_model, tokenizer):
    prompts = tokenize(prompts_table("sst2", count=2), tokenizer)
    rows = study.function("compute")(language_model("gpt2"), prompts, 2000)
    assert rows["prompt_id"].tolist() == [100] * 6 + [101] * 6
    assert rows["layer"].tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert rows["place"].tolist() == [1, 2] * 6
    assert (rows.groupby("prompt_id")["tokens"].nunique() <= 2).all()


def test_a_prompt_without_demonstrations_is_refused(study, language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstrations; use a prompt set with demonstrations"):
        study.function("compute")(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_progress_counts_every_prompt(study, language_model, tokenizer):
    done = []
    study.function("compute")(language_model("gpt2"), tokenize(prompts_table(count=7), tokenizer), 200, done.append)
    assert sum(done) == 7
    assert len(done) > 1


def rows_of(attention, tokens, task="sst2"):
    """Return rows of one layer for the prompts of one seed; attention and tokens have shape (N, D)."""
    places = range(1, len(attention[0]) + 1)
    return pd.DataFrame(
        {"model": "m", "set": "s", "task": task, "seed": 1, "prompt_id": number, "layer": 0, "place": place}
        | {"attention": attention[number][place - 1], "tokens": tokens[number][place - 1]}
        for number in range(len(attention))
        for place in places
    )


def summarise(rows, plan=None):
    from icl_lens.studies.plugins.recency.summary import summarise

    return summarise(rows, plan or Bootstrap(resamples=50))


def test_shares_are_those_of_the_mean_attention_with_intervals(study, language_model, tokenizer):
    table = prompts_table("sst2", count=6, shots=2).assign(seed=42)
    prompts = tokenize(table, tokenizer)
    model = language_model("llama")
    rows = study.function("compute")(model, prompts, 2000).assign(model="m", set="s", task="sst2", seed=42)
    # Each prompt has its own demonstrations, as in a fresh set.
    found = summarise(rows.assign(query_index=rows["prompt_id"], demonstrations=rows["prompt_id"]))
    expected = plain(model, table, prompts, tokenizer)
    for layer, of_layer in found.groupby("layer"):
        np.testing.assert_allclose(of_layer["share"], reference.shares(expected, layer), rtol=1e-3)
        assert of_layer["share"].sum() == pytest.approx(1)
        assert of_layer["uniform"].sum() == pytest.approx(1)
    for kind in ("", "prompts_"):
        assert (found[f"{kind}low"] < found["share"]).all()
        assert (found["share"] < found[f"{kind}high"]).all()
    assert set(found["prompts"]) == set(found["sets"]) == {6}
    # One demonstration set for all prompts has no interval over demonstration sets.
    one = summarise(rows)
    assert one["low"].isna().all()
    assert one["prompts_low"].notna().all()


def test_equal_attention_to_every_token_gives_the_uniform_share(study):
    tokens = [[3, 5, 2], [4, 1, 7]]
    found = summarise(rows_of([[0.01 * count for count in of_prompt] for of_prompt in tokens], tokens))
    np.testing.assert_allclose(found["share"], found["uniform"])
    np.testing.assert_allclose(found["uniform"], np.array([7, 6, 9]) / 22)


def test_a_layer_that_attends_to_no_demonstration_has_no_shares(study):
    found = summarise(rows_of([[0.0, 0.0]], [[3, 5]]))
    assert found[["share", "low", "high"]].isna().all(axis=None)


def test_tasks_may_differ_in_their_number_of_demonstrations_and_prompts_of_a_task_may_not(study):
    one, other = rows_of([[0.1, 0.2]], [[1, 2]]), rows_of([[0.1, 0.2, 0.3]], [[1, 2, 3]], task="trec")
    assert len(summarise(pd.concat([one, other]))) == 5
    mixed = pd.concat([one, other.assign(task="sst2", prompt_id=7)])
    with pytest.raises(InputError, match="the prompts of m on sst2, s, differ in their number of demonstrations"):
        summarise(mixed)


def test_it_runs_and_writes_like_a_study_of_the_package(study, checkpoint, tmp_path):
    table = prompts_table("sst2", count=4, shots=2)
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", {}, {}, [42, 43])
    prompts, out = tmp_path / "results/prompts/sst2/x.parquet", tmp_path / "results/studies/m/sst2/x/recency.parquet"
    artifacts.write(prompts, table, metadata)
    run(study, checkpoint, prompts, out, name="m", settings=settings(study, first_token=True))
    rows, about = parquet.read(out, study.schema)
    assert len(rows) == 4 * 3 * 4
    assert about["settings"]["first_token"] is True
    assert about["code"] == code.code_hash(COMPUTE, "icl_lens.studies.run")
    assert "icl_lens.studies.plugins.recency.study" in code.modules_of(COMPUTE)
    assert "icl_lens.studies.study" not in code.modules_of(COMPUTE)


def test_the_registry_knows_it(study):
    item = registry.items()["figure_recency"]
    assert item.group == "recency"
    assert registry.groups()["recency"].paper is False
    assert registry.is_plugin("recency")
    assert (FOLDER / f"{item.notebook}.ipynb").is_file()
    assert registry.settings()["recency"].section.model_fields["first_token"].default is False
