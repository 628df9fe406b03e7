import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import build
from icl_lens.studies import registry
from icl_lens.studies.component_reweighting.components import compute as components
from icl_lens.studies.component_reweighting.components import summary as components_summary
from icl_lens.studies.component_reweighting.components.summary import Answers
from icl_lens.studies.component_reweighting.settings import CONTRAST, Settings, Wording
from icl_lens.studies.inputs import Given
from icl_lens.studies.run import run as run_study
from icl_lens.tasks.task import TASKS
from tests import artifacts

from ..conftest import TEXTS
from ..families import tiny
from ..reference import components as plain

SETTINGS = Settings(budgets=[4, 8], sweep=[0.1], epochs=60, calibration_epochs=60, queries=3)


def labelled(task="agnews", seeds=(42, 43), queries=4, name="labelled-8"):
    """Return a prompts table of uninformative texts."""
    classes = len(TASKS[task].label_words)
    rows = [
        {"split": split, "index": n, "text": f"{TEXTS[n % len(TEXTS)]} {n}", "label": n % classes}
        for split, size in (("train", 60), ("test", 9))
        for n in range(size)
    ]
    return build(TASKS[task], pd.DataFrame(rows), name, list(seeds), queries)


def run(model, table, settings=SETTINGS, budget=2000, done=lambda count: None):
    prepared = prepare(model, table, settings)
    return components.compute(model, prepared.prompts, budget, done, settings, **prepared.more), prepared.more


def prepare(model, table, settings=SETTINGS):
    given = Given(model, table, {}, settings, "auto", False, lambda rows: tokenize(rows, model.tokenizer))
    return components.prepare(given)


@pytest.fixture(scope="module")
def model(tokenizer):
    network = tiny("llama", len(tokenizer), context=2048)
    return LanguageModel("llama", network, tokenizer, "float32", {"name": "llama", "family": "llama"})


@pytest.fixture(scope="module")
def table():
    return labelled()


@pytest.fixture(scope="module")
def made(model, table):
    asked = table.groupby("seed").head(3)
    return run(model, asked)


def test_parts_and_answers_are_those_of_the_plain_reference_under_every_template(model, made):
    (rows, tensors), given = made
    for name, prompts in given["by_template"].items():
        for n, prompt in enumerate(prompts):
            expected, whole = plain.component_logits(model.network, prompt.ids.tolist(), prompt.label_ids.tolist())
            assert np.abs(tensors[f"parts_{name}"][n] - expected).max() <= 1e-4 * np.abs(expected).max()
            row = rows[(rows["template"] == name) & (rows["method"] == "icl") & (rows["prompt_id"] == prompt.prompt_id)]
            assert row["prediction"].tolist() == [int(whole.argmax())]
    assert list(given["by_template"]) == ["f1", "f2", "f3", "contrast"]
    assert len({p[0].text for p in given["by_template"].values()}) == 4


def test_weights_and_what_they_answer_are_those_of_the_plain_loop(model, made):
    (rows, tensors), given = made
    seeds = sorted(set(tensors["seed"]))
    movable = np.flatnonzero(tensors["layer"] >= 0)
    plans = [("comprw-4", 4, 0.01, True, False), ("comprw-8", 8, 0.01, True, False), ("comprw_strict-8", 4, 0.01, True, False)]
    plans += [("comprw_unstopped-8", 8, 0.01, False, False), ("comprw_l1=0.1-8", 8, 0.1, True, False)]
    plans += [("comprw_with_rest-8", 8, 0.01, True, True)]
    for s, seed in enumerate(seeds):
        for t, name in enumerate(("f1", "f2", "f3")):
            prompts = [p for p in given["labelled"][name] if p.seed == seed]
            g = np.stack([plain.component_logits(model.network, p.ids.tolist(), p.label_ids.tolist())[0] for p in prompts])
            gold = [p.gold for p in prompts]
            test = tensors["seed"] == seed
            for method, texts, l1, stops, rest in plans:
                other = (g.sum(1) - g[:, movable].sum(1)) if rest else np.zeros(g[:, 0].shape)
                weights, epochs = plain.reweighted(
                    g[:texts, movable], gold[:texts], l1=l1, epochs=60, stops=stops, rest=other[:texts]
                )
                assert tensors[f"weights_{method}"][s, t] == pytest.approx(weights, abs=1e-3), method
                assert tensors[f"epochs_{method}"][s, t] == epochs, method
                z = (tensors[f"parts_{name}"][test][:, movable] * weights[:, None]).sum(1)
                if rest:
                    z += tensors[f"parts_{name}"][test].sum(1) - tensors[f"parts_{name}"][test][:, movable].sum(1)
                found = rows[
                    (rows["template"] == name)
                    & (rows["method"] == method)
                    & (rows["prompt_id"].isin(tensors["prompt_id"][test]))
                ]
                assert found["prediction"].tolist() == z.argmax(-1).tolist()


def test_labelled_texts_stand_behind_the_seeds_demonstrations_and_budgets_hold_every_class(made, table):
    _, given = made
    for seed in (42, 43):
        prompts = [p for p in given["labelled"]["f1"] if p.seed == seed]
        test = next(p for p in given["by_template"]["f1"] if p.seed == seed)
        assert all(p.text[: p.query_span[0]] == test.text[: test.query_span[0]] for p in prompts)
        assert [p.gold for p in prompts[:4]] == [p.gold for p in prompts[4:8]] == [0, 1, 2, 3]
        shown = [test.text[a:b] for a, b in test.text_spans]
        assert not {p.text[slice(*p.query_span)] for p in prompts} & set(shown)


def test_few_shot_prompts_hold_the_budget_and_the_same_labels_as_the_strict_training(made):
    (rows, _), given = made
    for budget in (4, 8):
        assert given["few_shot"][budget].labels == budget
        assert all(len(p.demo_labels) == budget for p in given["few_shot"][budget].by_template["f2"])
    strict = {p.text[slice(*p.query_span)] for p in given["labelled"]["f1"] if p.seed == 42}
    prompt = next(p for p in given["few_shot"][8].by_template["f1"] if p.seed == 42)
    shown = [prompt.text[a:b] for a, b in prompt.text_spans]
    few = next(p for p in given["by_template"]["f1"] if p.seed == 42)
    first = [few.text[a:b] for a, b in few.text_spans]
    assert set(shown) - set(first) <= strict
    labels = rows.groupby("method")["labels"].first()
    assert labels[["icl", "few_shot-8", "comprw_strict-8", "comprw-8", "calib+-4"]].tolist() == [4, 8, 8, 12, 8]


def test_a_choice_by_labels_is_the_best_on_them(made):
    (rows, tensors), _ = made
    for seed in (42, 43):
        test = tensors["seed"] == seed
        ids = tensors["prompt_id"][test]
        chosen = rows[(rows["method"] == "prompt_selection-8") & rows["prompt_id"].isin(ids)]
        same = [chosen[chosen["template"] == name]["prediction"].tolist() for name in ("f1", "f2", "f3")]
        assert same[0] == same[1] == same[2]
        assert same[0] in [tensors[f"logits_{name}"][test].argmax(-1).tolist() for name in ("f1", "f2", "f3")]


def test_the_contrast_is_asked_and_not_trained_on(made):
    (rows, tensors), _ = made
    assert rows.loc[rows["template"] == CONTRAST, "method"].unique().tolist() == ["icl"]
    assert tensors["weights_comprw-8"].shape == (2, 3, 15)
    assert tensors["parts_contrast"].shape == tensors["parts_f1"].shape == (6, 17, 4)
    assert tensors["attention_f1"].shape == tensors["reconstruction_f1"].shape == (6, 3, 4)
    assert 0 < tensors["reconstruction_f1"].mean() < 1


def test_no_answer_depends_on_the_batches(model, made, table):
    (rows, tensors), _ = made
    (again, others), _ = run(model, table.groupby("seed").head(3), budget=1)
    for name in ("f1", "contrast"):
        largest = np.abs(tensors[f"parts_{name}"]).max()
        assert np.abs(tensors[f"parts_{name}"] - others[f"parts_{name}"]).max() <= 1e-4 * largest
    pd.testing.assert_frame_equal(rows, again)


def test_progress_counts_every_prompt(model, table):
    done = []
    run(model, table.groupby("seed").head(3), done=lambda count: done.append(count))
    assert sum(done) == 6


def test_a_short_context_has_fewer_demonstrations_or_is_told(model, tokenizer, table):
    longest = max(len(p.ids) for p in prepare(model, table).prompts)
    few = LanguageModel("few", tiny("gpt2", len(tokenizer), context=longest + 60), tokenizer, "float32", {})
    _, given = run(few, table.groupby("seed").head(1))
    assert given["few_shot"][8].labels == 4
    none = LanguageModel("none", tiny("gpt2", len(tokenizer), context=20), tokenizer, "float32", {})
    with pytest.raises(InputError, match="model none: all prompts are longer than its context of 20 tokens"):
        prepare(none, table)
    own = LanguageModel("own", tiny("gpt2", len(tokenizer), context=longest), tokenizer, "float32", {})
    long = {"agnews": Wording(templates=["Text: {text}\n" + 8 * "So " + ":{label}"], contrast="Text: {text}\nAnswer:{label}")}
    with pytest.raises(InputError, match=f"model own: no prompt fits its context of {longest} tokens with every template"):
        prepare(own, table, SETTINGS.model_copy(update={"templates": long}))


def test_prompts_too_long_for_the_task_s_template_or_another_are_left_out(model, tokenizer, table):
    whole = prepare(model, table)
    assert whole.left_out == 0
    lengths = {name: {p.prompt_id: len(p.ids) for p in prompts} for name, prompts in whole.more["by_template"].items()}
    # Set the context length to the second largest of the prompts' maximum lengths, so that only the longest prompt is left out.
    longest = sorted({max(of[i] for of in lengths.values()) for i in lengths["f1"]})
    short = LanguageModel("short", tiny("gpt2", len(tokenizer), context=longest[-2]), tokenizer, "float32", {})
    found = prepare(short, table)
    kept = {i for i in lengths["f1"] if max(of[i] for of in lengths.values()) <= longest[-2]}
    assert {p.prompt_id for p in found.more["by_template"]["f1"]} == kept
    assert {p.prompt_id for p in found.prompts} == {i for i, length in lengths["f1"].items() if length <= longest[-2]}
    assert found.left_out == len(lengths["f1"]) - len(kept) > 0


def test_tables_that_are_no_labelled_set_are_refused(model, table):
    with pytest.raises(InputError, match="the prompts contain 12 labelled texts, but 28 are required"):
        prepare(model, table, Settings())
    changing = table.assign(demo_indices=[list(range(n, n + 12)) for n in range(len(table))])
    with pytest.raises(InputError, match="seed 42: the prompts have different demonstrations"):
        prepare(model, changing)


def test_the_study_writes_its_table_and_its_tensors(checkpoint, table, tmp_path):
    task = {"name": "agnews", "title": "AGNews", "template": "", "label_words": []}
    about = artifacts.describe(
        "prompts", "icl_lens.prompts.protocol", {}, {}, [42, 43], task=task, corpus={"source": "builtin"}
    )
    artifacts.write(tmp_path / "p.parquet", table, about)
    out = tmp_path / "components.parquet"
    run_study(registry.study("components"), checkpoint, tmp_path / "p.parquet", out, settings=SETTINGS)
    rows, metadata = artifacts.read(out, "components")
    tensors, _ = read_tensors(tmp_path / "components.safetensors")
    assert metadata["observed"]["prompts"] == 6
    assert list(metadata["beside"]) == ["components.safetensors"]
    answers = Answers.of("tiny", "agnews", tensors, rows)
    assert len(answers.components) == 3 * 5
    icl = rows[(rows["method"] == "icl") & (rows["template"] == "f1")]
    assert icl["prediction"].tolist() == answers.full["f1"].tolist()
    assert len(components_summary.methods(rows, {("tiny", "agnews"): tensors})) > 10


def test_half_precision_runs(tokenizer, table):
    network = tiny("llama", len(tokenizer), context=2048).to(torch.bfloat16)
    model = LanguageModel("llama", network, tokenizer, "bfloat16", {})
    (_, tensors), _ = run(model, table.groupby("seed").head(1))
    assert np.isfinite(tensors["parts_f1"]).all()
