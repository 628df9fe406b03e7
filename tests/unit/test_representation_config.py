from pathlib import Path, PurePosixPath

import pytest

from icl_lens.config import parse, plan
from icl_lens.errors import InputError
from icl_lens.studies import registry

GROUP = [name for name, item in registry.items().items() if item.group == "representation_change"]


def test_the_group_shows_the_second_model_on_its_own_tasks():
    default = parse.parse({})
    assert len(GROUP) == 7
    for item in GROUP:
        assert default.shown(item) == (["reader"], ["lines", "reading"])
    assert all("reader" not in default.shown(item)[0] for item in registry.items() if item not in GROUP)
    assert all(not {"lines", "reading"} & set(default.shown(item)[1]) for item in registry.items() if item not in GROUP)


def test_any_model_can_be_named_for_it():
    hub = {"name": "llama", "hub": "meta-llama/Llama-2-70b-hf", "dtype": "float16"}
    chosen = parse.parse({"representation_models": [hub], "items": {"rc_rsa": {"tasks": ["reading"]}}})
    assert chosen.shown("rc_behaviour") == (["llama"], ["lines", "reading"])
    assert chosen.shown("rc_rsa") == (["llama"], ["reading"])
    assert chosen.shown("figure_5")[0] == ["organism"]
    assert chosen.model("llama").hub == hub["hub"]
    assert [model.name for model in chosen.all_models] == ["organism", "llama"]


def test_a_model_may_stand_in_both_lists_but_not_another_of_its_name():
    mine = {"name": "mine", "path": "a"}
    both = parse.parse({"models": [mine], "representation_models": [mine]})
    assert len(both.all_models) == 1
    with pytest.raises(InputError, match="representation_models: 'mine' is already the name of a different model in models"):
        parse.parse({"models": [mine], "representation_models": [{"name": "mine", "path": "b"}]})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"items": {"rc_rsa": {"models": ["organism"]}}}, "items.rc_rsa.models: 'organism' is unknown"),
        ({"items": {"rc_rsa": {"tasks": ["sst2"]}}}, "items.rc_rsa.tasks: 'sst2' is unknown"),
        ({"representation_models": []}, "representation_models"),
        (
            {"representation_models": [{"name": "m", "path": "a", "chat": "turns"}]},
            "m: chat must be true or false, because the",
        ),
        ({"representation_models": [{"name": "figures", "path": "a"}]}, "is reserved for a folder of the results"),
    ],
)
def test_what_it_cannot_show_is_refused_with_a_sentence(keys, said):
    with pytest.raises(InputError, match=said):
        parse.parse(keys)


def test_a_plan_counts_its_prompts():
    default = parse.parse({})
    found = {
        task: plan.estimate(default, PurePosixPath(f"results/studies/reader/{task}/paired/representation_change.parquet"))
        for task in ("lines", "reading")
    }
    assert found["lines"].predicted.prompts == 64 * 9
    assert found["reading"].predicted.prompts == 60 * 3 * 5
    summary = ["output_file\trule\tplan"] + [
        f"studies/reader/lines/paired/representation_change.{ending}\trepresentation_change_study\tupdate pending"
        for ending in ("parquet", "safetensors")
    ]
    counts, paths = plan.jobs(summary)
    assert counts == {"representation_change_study": 1}
    assert [path.suffix for path in paths] == [".parquet"]


def test_the_overlay_for_the_studys_models_is_a_config():
    overlay = parse.load(Path(__file__).parents[2] / "config" / "representation-change.yaml")
    assert [model.name for model in overlay.representation_models] == ["llama-2-70b", "vicuna-13b"]
    assert overlay.representation_models[1].chat
    assert overlay.studies.representation_change.lines.queries_per_line == 16
