import dataclasses
import json
import subprocess
import sys

import pytest

from icl_lens.config import keys, parse, render
from icl_lens.errors import InputError
from icl_lens.studies import registry
from icl_lens.studies.anchors.isolating import Settings
from icl_lens.tasks.own import VARIANTS
from icl_lens.tasks.task import TASKS

from ..conftest import REPOSITORY


def test_config_yaml_and_schema_are_what_the_models_say():
    assert (REPOSITORY / "config.yaml").read_text() == render.default_yaml(), "run `make config`"
    assert (REPOSITORY / "workflow/schemas/config.schema.json").read_text() == render.schema_json(), "run `make config`"
    assert (REPOSITORY / "config/reference.md").read_text() == render.reference_markdown(), "run `make config`"


def test_default_yaml_parses_to_the_defaults_and_comments_every_key():
    path = REPOSITORY / "config.yaml"
    assert parse.load(path) == parse.parse({})
    blocks = path.read_text().split("\n\n")[1:]
    assert len(blocks) == len(keys.config_type().model_fields)
    assert all(block.startswith("# ") for block in blocks)


def test_the_guide_explains_every_key():
    guide = (REPOSITORY / "config/README.md").read_text()
    for key in keys.config_type().model_fields:
        assert f"`{key}`" in guide, key


def test_the_reference_has_every_key_at_every_depth_with_its_meaning():
    reference = render.reference_markdown()
    for key in ("queries", "models[].path", "data.root", "organism.architecture.width", "organism.curriculum.rungs[].noise"):
        assert f"| `{key}` |" in reference, key
    rows = [row.split(" | ") for row in reference.splitlines() if row.startswith("| `")]
    assert all(len(row[-1].strip(" |")) > 5 for row in rows)


def test_numbers_inside_a_mapping_may_come_as_text():
    """Parse values in the form in which Snakemake passes --config organism={steps: 7}."""
    parsed = parse.parse({"organism": {"steps": "7", "learning_rate": "1e-2", "episodes": {"classes": ["2", "3"]}}})
    assert (parsed.organism.steps, parsed.organism.learning_rate, parsed.organism.episodes.classes) == (7, 0.01, [2, 3])
    with pytest.raises(InputError, match=r"'organism\.steps' must be a valid integer, got 'many'"):
        parse.parse({"organism": {"steps": "many"}})


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"querries": 3}, "unknown key 'querries' (= 3); did you mean 'queries'?"),
        ({"queries": "many"}, "'queries' must be a valid integer, got 'many'"),
        ({"queries": True}, "'queries' must be a valid integer, got True"),
        ({"queries": 0}, "'queries' must be greater than or equal to 1, got 0"),
        ({"tasks": ["sst"]}, "tasks: 'sst' is unknown; did you mean 'sst2'?"),
        ({"tasks": []}, "'tasks' must have at least 1 item, got []"),
        ({"device": "gpu"}, "'device' must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
        ({"data": {"source": "fils"}}, "'data.source' must be 'builtin', 'files' or 'hub', got 'fils'"),
        ({"data": {"source": "files"}}, "data.root is missing; with data.source: files, set it to the folder"),
        ({"data": {"root": "x"}}, "need data.source: files, but data.source is 'builtin'"),
        (
            {"data": {"source": "files", "root": "x", "files": {"agnews": {"trian": "y"}}}},
            "unknown key 'data.files.agnews.trian' (= 'y'); did you mean 'train'?",
        ),
        (
            {"data": {"source": "files", "root": "x", "files": {"ag": {}}}},
            "data.files: 'ag' is unknown; did you mean 'agnews'?",
        ),
        (
            {"models": [{"name": "a"}]},
            "models: a needs exactly one source: path (a folder), hub (owner/name) or gguf (a GGUF file",
        ),
        (
            {"models": [{"name": "a", "path": "x", "hub": "o/n"}]},
            "models: a needs exactly one source: path (a folder), hub (owner/name) or",
        ),
        ({"models": [{"name": "a", "path": "x", "gguf": "x.gguf"}]}, "models: a: path and gguf cannot be combined; remove one"),
        ({"models": [{"name": "a", "gguf": "x.bin"}]}, "models: a: gguf must end in .gguf, got 'x.bin'"),
        (
            {"models": [{"name": "a", "gguf": "x.gguf", "revision": "main"}]},
            "models: a: revision needs hub, but the model is local (gguf)",
        ),
        (
            {"representation_models": [{"name": "a", "hub": "o/n", "gguf": "../x.gguf"}]},
            "models: a: gguf must be a file path inside the repository o/n, got '../x.gguf'",
        ),
        (
            {"models": [{"name": "a", "path": "x", "revision": "main"}]},
            "models: a: revision needs hub, but the model is local (path)",
        ),
        ({"models": [{"name": "a", "hub": "a b"}]}, "'models[0].hub' must be a name (owner/name) of letters, digits"),
        ({"data": {"source": "builtin", "revisions": {"trec": "main"}}}, "data.revisions needs data.source: hub"),
        ({"models": [{"name": "a/b", "path": "x"}]}, "'models[0].name' must be a name of letters, digits"),
        ({"seeds": 42}, "'seeds' must be a list, such as [42], got 42"),
        ({"tasks": "sst2,trec"}, "'tasks' must be a list, such as ['sst2', 'trec'], got 'sst2,trec'"),
        ({"models": "gpt2"}, "'models' must be a list, such as [{name: my-model, path: my/folder}], got 'gpt2'"),
        (
            {"models": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]},
            "models: duplicate value 'a'; values must be unique",
        ),
        ({"models": [{"name": "prompts", "path": "x"}]}, "the name 'prompts' is reserved for a folder of the results"),
        ({"seeds": [1, 1]}, "seeds: duplicate value 1"),
        ({"seeds": [-1]}, "'seeds[0]' must be greater than or equal to 0, got -1"),
        ({"items": {"figure_3": {"tasks": ["sst2", "sst2"]}}}, "items.figure_3.tasks: duplicate value 'sst2'"),
        ({"items": {"table_4": {"models": ["organism"]}}}, "items.table_4.models: table_4 uses no model"),
        ({"items": {"figure_3": {"prompt": 2}}}, "items.figure_3.prompt: figure_3 does not show a single prompt"),
        ({"items": {"figure_3": {"layers": [0]}}}, "items.figure_3.layers: figure_3 does not show a single prompt"),
        (
            {"items": {"figure_1": {"layers": ["middle"]}}},
            "items.figure_1.layers[0]: a layer must be a number (from 0), shallow or deep, got 'middle'",
        ),
        (
            {"items": {"figure_1": {"layers": [-1]}}},
            "items.figure_1.layers[0]: a layer must be a number (from 0), shallow or deep, got -1",
        ),
        ({"data": None}, "'data' must be a mapping of keys to values, got None"),
        ({"items": {"figure_33": {}}}, "items: 'figure_33' is unknown; did you mean 'figure_3'?"),
        ({"items": {"figure_3": {"model": ["x"]}}}, "unknown key 'items.figure_3.model' (= ['x']); did you mean 'models'?"),
        (
            {"items": {"figure_3": {"models": ["orgnism"]}}},
            "items.figure_3.models: 'orgnism' is unknown; did you mean 'organism'?",
        ),
        ({"studies": {"isolatoin": {}}}, "unknown key 'studies.isolatoin' (= {}); did you mean 'isolation'?"),
        ({"studies": {"isolation": {"draws": 0}}}, "'studies.isolation.draws' must be greater than or equal to 1, got 0"),
        (
            {"studies": {"isolation": {"targets": ["lable"]}}},
            "'studies.isolation.targets[0]' must be 'label', 'random', 'newline' or 'template', got 'lable'",
        ),
        (
            {"own_tasks": {"sst2_ab": {"like": "sst2", "label_words": {"negative": " X", "positive": " Y"}}}},
            "own_tasks.sst2_ab: sst2_ab is a built-in task; choose another name",
        ),
        ({"tasks": ["sst2_ab"]}, "tasks: 'sst2_ab' is unknown; did you mean 'sst2'?"),
        ({"tasks": ["trec"], "items": {"figure_12": {"tasks": ["sst2_ab"]}}}, "items.figure_12.tasks: 'sst2_ab' is unknown"),
        ({"tasks": ["sst2"], "items": {"figure_3": {"tasks": ["trec"]}}}, "items.figure_3.tasks: 'trec' is unknown"),
    ],
)
def test_a_fault_is_one_sentence_that_names_key_value_and_remedy(bad, sentence):
    with pytest.raises(InputError) as caught:
        parse.parse(bad)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_lies_here_or_on_the_hub_and_has_a_folder_of_its_own():
    given = [{"name": "a", "gguf": "m/x.gguf"}, {"name": "b", "hub": "o/n", "gguf": "q/x.gguf", "revision": "v1"}]
    here, there = parse.parse({"models": given}).models
    assert here.folder("downloads").startswith("downloads/gguf/files/")
    assert here.folder("downloads").endswith("/x.gguf/converted")
    assert there.folder("downloads") == "downloads/gguf/o--n/v1/q--x.gguf/converted"


def test_two_faults_are_both_told():
    with pytest.raises(InputError) as caught:
        parse.parse({"querries": 3, "device": "gpu"})
    assert "querries" in str(caught.value)
    assert "device" in str(caught.value)


def test_a_file_that_is_no_config_is_told(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "broken.yaml").write_text("a: [1, 2\n")
    for name, sentence in (
        ("list.yaml", "is not a config"),
        ("broken.yaml", "is not valid YAML"),
        ("none.yaml", "cannot be read"),
    ):
        with pytest.raises(InputError, match=sentence):
            parse.load(tmp_path / name)


def test_an_empty_file_means_the_defaults(tmp_path):
    for content in ("", "# only a comment\n", "---\n"):
        (tmp_path / "empty.yaml").write_text(content)
        assert parse.load(REPOSITORY / "config.yaml", tmp_path / "empty.yaml") == parse.parse({})


def test_yaml_is_read_safely(tmp_path):
    (tmp_path / "evil.yaml").write_text("results: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="is not valid YAML"):
        parse.load(tmp_path / "evil.yaml")


def test_items_show_the_papers_tasks_unless_told_otherwise():
    default = parse.parse({})
    assert default.shown("figure_3") == (["organism"], ["sst2", "agnews"])
    assert default.shown("figure_9") == (["organism"], ["sst2", "trec", "agnews", "emoc"])
    some = parse.parse({"tasks": ["trec", "agnews"], "items": {"figure_9": {"tasks": ["agnews"]}}})
    assert some.shown("figure_3")[1] == ["agnews"]
    assert some.shown("figure_9")[1] == ["agnews"]
    assert parse.parse({"tasks": ["trec"]}).shown("figure_3")[1] == []


def test_a_comparison_of_dtypes_shows_models_that_are_there_in_float32_and_in_another():
    assert parse.parse({}).shown("table_precision")[0] == []
    models = [
        {"name": "a", "path": "a"},
        {"name": "a-half", "path": "a", "dtype": "float16"},
        {"name": "b", "path": "b"},
        {"name": "b-chat", "path": "b", "dtype": "float16", "chat": True},  # a different prompt
        {"name": "c-half", "path": "c", "dtype": "float16"},
        {"name": "c-brain", "path": "c", "dtype": "bfloat16"},
        {"name": "d", "path": "d"},
        {"name": "d-fast", "path": "d", "matmul": "fast"},
        {"name": "e-fast", "path": "e", "matmul": "fast"},
        {"name": "e-half", "path": "e", "dtype": "float16"},
    ]
    parsed = parse.parse({"models": models})
    assert parsed.shown("table_precision")[0] == ["a", "a-half", "d", "d-fast"]
    assert parsed.shown("figure_3")[0] == [model["name"] for model in models]
    assert parse.parse({"models": models, "dtype": "bfloat16"}).shown("table_precision")[0] == []
    assert parse.parse({"models": models, "matmul": "fast"}).shown("table_precision")[0] == []
    chosen = parse.parse({"models": models, "items": {"table_precision": {"models": ["a", "b"]}}})
    assert chosen.shown("table_precision")[0] == []


def test_a_models_own_precision_overrides_the_configs():
    models = [{"name": "a", "path": "a"}, {"name": "b", "path": "a", "dtype": "float16", "matmul": "exact"}]
    parsed = parse.parse({"models": models, "matmul": "fast"})
    assert [parsed.precision(name) for name in "ab"] == [("float32", "fast"), ("float16", "exact")]
    assert parse.parse({}).precision("organism") == ("float32", "exact")


def test_the_precision_config_has_one_model_in_every_precision():
    parsed = parse.load(REPOSITORY / "config/precision.yaml")
    found = [parsed.precision(model.name) for model in parsed.models]
    assert found == [("float32", "exact"), ("float16", "exact"), ("bfloat16", "exact"), ("float32", "fast")]
    assert {model.path for model in parsed.models} == {keys.EMBEDDED_MODEL}
    assert parsed.shown("table_precision")[0] == [model.name for model in parsed.models]


def test_an_item_about_models_of_the_hub_shows_them_alone_and_none_where_there_are_none():
    assert parse.parse({}).shown("kr_figure_21") == ([], ["sst2"])
    llama = {"name": "llama", "hub": "meta-llama/Llama-2-7b-hf"}
    here = {"name": "organism", "path": keys.EMBEDDED_MODEL}
    both = parse.parse({"models": [here, llama]})
    assert both.shown("kr_figure_21")[0] == ["llama"]
    assert both.shown("kr_figure_23")[0] == []
    assert both.shown("kr_figure_2")[0] == ["organism", "llama"]
    chosen = parse.parse({"models": [here, llama], "items": {"kr_figure_21": {"models": ["organism"]}}})
    assert chosen.shown("kr_figure_21")[0] == ["organism"]


def test_sst2_under_labels_a_and_b_is_shown_where_it_is_the_subject_and_nowhere_else():
    default = parse.parse({})
    assert default.shown("figure_12")[1] == default.shown("figure_13")[1] == ["sst2_ab"]
    about = {name for name, item in registry.items().items() if "sst2_ab" in (*item.tasks, *item.stand_ins)}
    assert {"figure_12", "figure_13"} < about
    assert all("sst2_ab" not in default.shown(item)[1] for item in registry.items() if item not in about)
    assert default.task("sst2_ab").label_words == (" A", " B")
    assert parse.parse({"tasks": ["trec"]}).shown("figure_12")[1] == []
    words = {name: f" {letter}" for name, letter in zip(TASKS["trec"].classes, "ABCDEF", strict=True)}
    own = {"mine": {"like": "trec", "label_words": words}}
    mine = parse.parse({"tasks": ["sst2", "mine"], "own_tasks": own})
    assert mine.shown("figure_12")[1] == ["sst2_ab"]
    assert mine.shown("figure_4")[1] == ["sst2", "mine"]


def test_a_task_and_its_definition_are_known_to_the_command_line():
    task, own = parse.parse_task("sst2_ab", VARIANTS["sst2_ab"].model_dump_json(exclude_unset=True))
    assert task == parse.parse({}).task("sst2_ab")
    assert own == VARIANTS["sst2_ab"]


def test_a_studys_settings_are_its_keys_in_the_config():
    assert parse.parse_settings("isolation", "{draws: 2, layers: [1]}") == Settings(draws=2, layers=[1])
    defaults = parse.parse({}).studies.isolation
    assert parse.parse_settings("isolation", defaults.model_dump_json()) == defaults == Settings()
    assert parse.parse({"studies": {"isolation": {"draws": "2", "layers": ["1"]}}}).studies.isolation.layers == [1]
    with pytest.raises(InputError, match="--settings is not valid YAML"):
        parse.parse_settings("isolation", "{draws: [")


def test_the_config_is_read_without_torch():
    code = "import sys, icl_lens.config.keys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_task_that_is_left_out_may_keep_its_files():
    files = {"agnews": {"train": "agnews/train_subset.csv"}}
    assert parse.parse({"tasks": ["sst2"], "data": {"source": "files", "root": "x", "files": files}}).tasks == ["sst2"]


@pytest.mark.parametrize(("given", "one"), [("./x/", "x"), ("x//y", "x/y"), ("/a/./b/", "/a/b"), ("../x", "../x")])
def test_a_folder_has_one_spelling(given, one):
    assert parse.parse({"results": given}).results == one
    assert parse.parse({"downloads": given}).downloads == one


def test_a_figure_of_one_prompt_takes_its_prompt_and_layers_also_from_the_command_line():
    chosen = parse.parse({"items": {"figure_1": {"prompt": "3", "layers": ["shallow", "2"]}}}).items["figure_1"]
    assert (chosen.prompt, chosen.layers) == (3, ["shallow", 2])


def test_seeds_may_come_from_the_command_line():
    assert parse.parse({"seeds": ["42", "43"]}).seeds == [42, 43]


def test_the_schema_refuses_unknown_keys_too():
    schema = json.loads(render.schema_json())
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(keys.config_type().model_fields)


def test_every_item_reads_known_studies():
    assert {study for item in registry.items().values() for study in item.studies} <= set(registry.studies())


def test_the_flow_of_a_prompt_that_an_item_names_is_kept_for_the_tasks_it_shows():
    own = parse.parse(
        {
            "items": {"figure_1": {"prompt": 57}, "figure_2": {"prompt": 3, "tasks": ["trec", "sst2"]}},
            "studies": {"flow": {"also": [9]}},
        }
    )
    assert own.settings("flow", "sst2").also == [3, 9, 57]
    assert own.settings("flow", "trec").also == [3, 9]
    assert own.settings("flow", "emoc") == own.studies.flow
    assert own.settings("isolation_controls", "sst2") == own.studies.controls
    assert own.settings("icl", "sst2") is None
    default = parse.parse({})
    assert default.settings("flow", "sst2") == default.studies.flow


def test_the_studies_of_tables_and_pictures_of_single_prompts_have_their_keys():
    assert parse.parse_settings("flow", "{prompts: 2, prompt_ids: [4]}").prompt_ids == [4]
    assert parse.parse_settings("isolated_words", "{layers: 1, words: 3}").layers == 1


def test_an_item_about_one_task_shows_its_stand_in_until_its_own_task_is_configured(monkeypatch):
    item = dataclasses.replace(registry.items()["figure_6"], name="repeat", tasks=("reviews",), stand_ins=("trec", "sst2"))
    monkeypatch.setitem(registry.items(), "repeat", item)
    reviews = {
        "template": "Text: {text}\nSays:{label}",
        "label_words": {"a": " bad", "b": " good"},
        "train": "a.csv",
        "test": "b.csv",
    }
    assert parse.parse({}).shown("repeat")[1] == ["trec"]
    assert parse.parse({"tasks": ["sst2", "emoc"]}).shown("repeat")[1] == ["sst2"]
    own = parse.parse({"tasks": ["trec", "reviews", "mine"], "own_tasks": {"reviews": reviews, "mine": reviews}})
    assert own.shown("repeat")[1] == ["reviews"]
    assert own.shown("figure_6")[1] == ["trec", "mine"], "a task with an item of its own does not crowd into others' items"
    assert own.shown("figure_4")[1] == ["trec", "reviews", "mine"]


def test_groups_are_papers_and_each_is_named_once():
    assert set(parse.parse({}).groups) <= {item.group for item in registry.items().values()} | {*registry.papers()}
    with pytest.raises(InputError, match="groups"):
        parse.parse({"groups": ["anchors", "astrology"]})
    with pytest.raises(InputError, match="groups: duplicate value 'anchors'"):
        parse.parse({"groups": ["anchors", "anchors"]})


def test_saved_checkpoints_are_shown_over_training_alone_and_only_when_training_has_ended(tmp_path):
    results = tmp_path / "results"
    for step in (0, 10):
        (results / f"training/checkpoints/step-{step:06d}").mkdir(parents=True)
    unended = parse.parse({"results": str(results)}).with_checkpoints()
    assert unended.shown("cr_figure_3")[0] == []
    (results / "training/model").mkdir()
    ended = parse.parse({"results": str(results)}).with_checkpoints()
    assert ended.shown("cr_figure_3")[0] == ["organism-step-000000", "organism-step-000010"]
    assert [ended.model(name).step for name in ended.shown("cr_figure_3")[0]] == [0, 10]
    assert ended.shown("figure_3")[0] == ended.shown("cr_figure_1")[0] == ["organism"]
    own = [{"name": "late", "path": "a", "step": 3}]
    assert parse.parse({"results": str(results), "models": own}).with_checkpoints().shown("cr_figure_3")[0] == ["late"]


OVERLAYS = sorted((REPOSITORY / "config").glob("*.yaml"))
OVER_ANOTHER = {f"gemma-real-{name}": "gemma-real" for name in ("challenges", "companions", "interventions")}


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_config_that_comes_with_the_project_is_one(path):
    below = [path.with_stem(OVER_ANOTHER[path.stem])] if path.stem in OVER_ANOTHER else []
    parse.load(REPOSITORY / "config.yaml", *below, path)
