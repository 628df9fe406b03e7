import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icl_lens.artifacts import code
from icl_lens.artifacts.schema import FLOAT, Schema, study_schema
from icl_lens.errors import InputError
from icl_lens.section import Section
from icl_lens.studies import plugins as known_plugins
from icl_lens.studies import registry
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Further, Keys, Study
from tests import plugins

from ..conftest import REPOSITORY

LAYERS = (
    {"errors", "section", "progress", "short_repr", "json_text"},
    {"resources", "yaml_text"},
    {"artifacts"},
    {"statistics", "network", "tasks", "hub"},
    {"attention", "corpora", "results"},
    {"prompts"},
    {"models"},
    {"organism"},
    {"studies"},
    {"tools", "reader_organism", "report"},
    {"config", "project"},
    {"api"},
    {"cli"},
    {"__main__"},
)
"""The parts of the package from the lowest to the highest. A module imports only lower parts and its own part."""

CONTRACT = {"cost", "group", "inputs", "item", "study"}
"""The modules of ``studies`` that a study may import in addition to the modules of its paper."""


def imports_of_modules():
    """Yield (module, imported name) for each import of the package's own code in the package."""
    for path in sorted(code.PACKAGE.rglob("*.py")):
        parts = [code.PACKAGE.name, *path.relative_to(code.PACKAGE).with_suffix("").parts]
        module, package = ".".join(parts).removesuffix(".__init__"), parts[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = (
                    [*package[: len(package) - node.level + 1], *filter(None, [node.module])] if node.level else [node.module]
                )
                names = [".".join([*base, alias.name]) for alias in node.names]
            yield from ((module, name) for name in names if name.split(".")[0] == code.PACKAGE.name)


IMPORTS = list(imports_of_modules())


def test_every_part_of_the_package_has_a_layer():
    found = {path.name.removesuffix(".py") for path in code.PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert found - {"__init__", "__pycache__"} == set().union(*LAYERS)


def test_imports_go_to_lower_layers_only():
    layer = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    wrong = []
    for module, imported in IMPORTS:
        own, other = (([*name.split("."), ""])[1] for name in (module, imported))
        if own and other != own and layer[other] >= layer[own]:
            wrong.append(f"{module} imports {imported}")
    assert wrong == []


def folder_of_study(name):
    """Return the package of the study folder that contains a module or an imported name, or None if there is none."""
    package = ".".join(name.split(".")[:4])
    return package if package in registry.packages().values() else None


def test_no_study_imports_another_study():
    wrong = [
        f"{module} imports {imported}"
        for module, imported in IMPORTS
        if module.startswith("icl_lens.studies.") and folder_of_study(imported) not in (None, folder_of_study(module))
    ]
    assert wrong == []


def test_studies_import_the_contract_and_their_own_paper_and_nothing_else_of_studies():
    papers = set(registry.groups())
    wrong = []
    for module, imported in IMPORTS:
        own, other = module.split(".")[1:3], imported.split(".")[1:3]
        if own[:1] == other[:1] == ["studies"] and own[-1] in papers and other[-1] not in {own[-1], *CONTRACT}:
            wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_the_contract_imports_no_paper_and_not_the_registry():
    wrong = [
        f"{module} imports {imported}"
        for module, imported in IMPORTS
        if module.removeprefix("icl_lens.studies.") in CONTRACT | {"computing", "run", "run_synthetic", "sharding", "writing"}
        and imported.startswith("icl_lens.studies.")
        and imported.split(".")[2] not in CONTRACT | {"computing", "sharding", "writing"}
    ]
    assert wrong == []


def test_a_studys_code_holds_no_other_study():
    for name, package in registry.packages().items():
        needed = {folder_of_study(module) for module in code.modules_of(f"{package}.compute", "icl_lens.studies.run")}
        assert needed <= {None, package}, name


def test_what_there_is_is_known_without_torch():
    script = (
        "import sys; from icl_lens.studies import registry; registry.items(); registry.settings(); registry.schemas(); "
        "print(*sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert told.stdout.strip() == ""


def test_every_items_notebook_exists_and_every_notebook_is_an_items():
    named = {item.notebook for item in registry.items().values()}
    there = {
        path.relative_to(REPOSITORY / "notebooks").with_suffix("").as_posix() for path in REPOSITORY.glob("notebooks/*/*.ipynb")
    }
    assert named == there


def test_every_item_reads_studies_whose_tensors_and_prompts_there_are():
    for item in registry.items().values():
        assert set(item.tensors) <= set(item.studies), item.name
        assert all(registry.study(name).tensors for name in item.tensors), item.name
        assert bool(item.set) == bool([name for name in item.studies if registry.study(name).reads]), item.name


def test_every_study_has_what_it_names():
    for study in registry.studies().values():
        folder = code.module_file(f"{study.package}.study").parent
        assert {"__init__.py", "study.py", "compute.py"} <= {path.name for path in folder.iterdir()}, study.name
        assert callable(study.function("compute"))
        if study.inputs:
            assert callable(study.function(study.inputs))


def test_papers_and_groups_come_in_their_order():
    assert list(registry.groups()) == [*registry.papers(), "organism", "precision"]
    assert registry.papers() == ["anchors", "kernel_regression", "component_reweighting", "representation_change", "challenges"]
    groups = [item.group for item in registry.items().values()]
    assert list(dict.fromkeys(groups)) == list(registry.groups())


def test_items_come_by_number():
    figures = [name for name in registry.items() if name.startswith("figure_") and name.split("_")[1].isdigit()]
    assert figures.index("figure_2") < figures.index("figure_10")


def test_a_study_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InputError, match=r"unknown study saliencies; known studies: .*saliency"):
        registry.study("saliencies")


# Invalid fields of a study.


class Settings(Section):
    """Settings without fields."""


def declared(**fields):
    """Return a study that is valid except for the given fields."""
    good = {
        "package": "icl_lens.studies.anchors.sample",
        "help": "what it finds",
        "schema": study_schema("sample", {"x": FLOAT}),
        "cost": Cost(passes=1),
    }
    return Study(**{**good, **fields})


def item(**fields):
    return Item(**{"name": "figure_sample", "title": "A sample", "notebook": "sample", **fields})


SYNTHETIC = Schema("sample", 1, {"x": FLOAT}, (), "synthetic")


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("package", None, "must be of type str, got None"),
        ("help", 1, "must be of type str, got 1"),
        ("schema", {"x": FLOAT}, r"must be of type Schema, got \{'x': .*\}"),
        ("schema", study_schema("other", {"x": FLOAT}), "must have the name of the study as its kind, got 'other'"),
        ("schema", SYNTHETIC, "must have stage studies, got 'synthetic'"),
        ("schema", Schema("sample", 1, {"x": FLOAT}, (), "studies"), "lacks columns that each study has"),
        ("cost", 1, "must be of type Cost, got 1"),
        ("settings", Settings, "must be of type Keys or NoneType, got <class .*>"),
        (
            "settings",
            Keys("sample", Settings(), ""),
            r"must contain a class derived from icl_lens.section.Section, got Settings\(\)",
        ),
        (
            "settings",
            Keys("sample", dict, ""),
            "must contain a class derived from icl_lens.section.Section, got <class 'dict'>",
        ),
        ("reads", "prompts", "must be of type Schema or NoneType, got 'prompts'"),
        ("further", Further("more", "", "pooled-1shot"), r"must be of type tuple, got Further\(.*\)"),
        ("further", ("more",), "must contain only entries of type Further, got 'more'"),
        ("further", (Further("model", "", "pooled-1shot"),), "invalid or reserved option name 'model'; use another name"),
        ("inputs", len, "must be of type str, got <built-in function len>"),
        ("tensors", 1, "must be of type bool, got 1"),
        ("checkpoints", lambda settings: {}, "depend on the settings, but the study has no settings"),
        ("alone", "yes", "must be of type bool, got 'yes'"),
        ("walked", None, "must be of type bool, got None"),
        ("needs_gold", "no", "must be of type bool, got 'no'"),
        ("gold_columns", "x", "must be of type tuple, got 'x'"),
        ("gold_columns", ("x",), "are only for a study with needs_gold=False"),
        ("shortage", "few", "must be a function of the settings and the numbers of seeds and prompts, got 'few'"),
        ("items", item(), r"must be of type tuple, got Item\(.*\)"),
        ("items", ("figure_sample",), "must contain only entries of type Item, got 'figure_sample'"),
        ("items", (item(), item()), "duplicate name figure_sample"),
        ("items", (item(studies="sample"),), "figure_sample: studies must be a tuple, got 'sample'"),
    ],
)
def test_a_mistake_in_a_study_is_refused_by_the_name_of_its_field(field, value, fault):
    with pytest.raises(InputError, match=rf"^study \S+: {field} {fault}"):
        declared(**{field: value})


@pytest.mark.parametrize("field", ["inputs", "tensors"])
def test_what_needs_prompts_is_refused_where_a_study_reads_none(field):
    value = {"inputs": "prepare", "tensors": True}[field]
    with pytest.raises(InputError, match=f"study sample: {field} is only for studies that read prompts, but reads is None"):
        declared(schema=SYNTHETIC, reads=None, **{field: value})


def test_gold_columns_that_the_schema_lacks_are_refused():
    with pytest.raises(InputError, match="study sample: gold_columns contains 'gold', which is not a column of the schema"):
        declared(needs_gold=False, gold_columns=("gold",))
    assert declared(needs_gold=False, gold_columns=("x",)).gold_columns == ("x",)


def test_checkpoints_that_are_no_function_are_refused():
    with pytest.raises(InputError, match="study sample: checkpoints must be a function of the settings, got 'folder'"):
        declared(settings=Keys("sample", Settings, ""), checkpoints="folder")


def test_a_study_that_reads_no_prompts_has_a_synthetic_table():
    assert declared(reads=None, schema=SYNTHETIC).reads is None
    with pytest.raises(InputError, match="schema must have stage synthetic"):
        declared(reads=None)


def test_a_study_knows_its_names():
    study = declared(package="icl_lens.studies.anchors.two_words", schema=study_schema("two_words", {}), items=(item(),))
    assert (study.name, study.command, study.group) == ("two_words", "two-words", "anchors")
    assert study.item("figure_sample").group == "anchors"
    assert study.module == "icl_lens.studies.anchors.two_words.compute"


def test_a_function_that_compute_py_lacks_is_refused():
    with pytest.raises(InputError, match=r"study icl: \S+\.icl\.compute has no function absent\(\)"):
        registry.study("icl").function("absent")


# Studies outside the package.

DECLARATION = """
from icl_lens.artifacts.schema import FLOAT, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study
class Settings(Section): pass
STUDY = Study(
    package=__package__,
    help="what it finds",
    schema=study_schema("{kind}", {{"x": FLOAT}}),
    cost=Cost(passes=1),
    settings=Keys("{keys}", Settings, "What they decide."),
    items=(Item(name="{item}", title="A sample", notebook="sample", set="fresh-1shot", studies=("{reads}",)),),
)
"""


def folder(parent, name="sample", text=DECLARATION, **fields):
    """Create a plugin's folder and return its path."""
    place = Path(parent) / name
    place.mkdir(parents=True)
    names = {"kind": name, "keys": name, "item": f"figure_{name}", "reads": name, **fields}
    (place / "study.py").write_text(text.format(**names))
    (place / "compute.py").write_text("def compute(): return 1")
    return place


def test_a_plugin_is_a_study_and_a_group_like_any_other(tmp_path):
    with plugins.added(folder(tmp_path)):
        study = registry.study("sample")
        assert study.package == "icl_lens.studies.plugins.sample"
        assert study.group == "sample"
        assert list(registry.studies())[-1] == list(registry.groups())[-1] == "sample"
        assert list(registry.items())[-1] == "figure_sample"
        assert "sample" not in registry.papers()
        assert registry.settings()["sample"].section.__name__ == "Settings"
        assert "sample" in {schema.kind for schema in registry.schemas()}
        assert study.function("compute")() == 1
        assert code.module_file(study.module) == tmp_path / "sample/compute.py"
        assert code.code_hash(study.module)
        assert registry.is_plugin("sample")
        assert not registry.is_plugin("icl")
    assert "sample" not in registry.studies()
    assert known_plugins.FOLDERS == {}


def test_processes_that_are_started_know_the_plugins(tmp_path):
    script = (
        "from icl_lens.studies import registry; from icl_lens.studies.plugins.sample.study import STUDY; "
        "from icl_lens.artifacts import code; print(STUDY is registry.study('sample'), code.code_hash(STUDY.module))"
    )
    with plugins.added(folder(tmp_path), folder(tmp_path, "other")):
        assert os.environ[known_plugins.VARIABLE].split(os.pathsep) == [str(tmp_path / "sample"), str(tmp_path / "other")]
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert told.stdout.split() == ["True", code.code_hash("icl_lens.studies.plugins.sample.compute")]


def test_a_plugin_may_be_named_twice(tmp_path):
    place = folder(tmp_path)
    with plugins.added(place, os.path.relpath(place), f"{place}/"):
        assert list(known_plugins.FOLDERS) == ["sample"]


def test_no_plugins_change_nothing():
    before = dict(os.environ)
    registry.add_plugins([])
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "fields", "fault"),
    [
        ("icl", {}, "the name 'icl' is taken by a study of icl-lens; rename the folder"),
        ("anchors", {}, "the name 'anchors' is taken by a group of figures of icl-lens; rename the folder"),
        ("My-Study", {}, "'My-Study' is not a valid study name"),
        ("os", {}, "the name 'os' is taken by a module of icl-lens; rename the folder"),
        ("figure", {}, "the name 'figure' is taken by a target of the workflow; rename the folder"),
        ("class", {}, "'class' is not a valid study name"),
        ("sample", {"kind": "other"}, "study sample: schema must have the name of the study as its kind, got 'other'"),
        ("sample", {"item": "figure_3"}, "sample: items: duplicate name figure_3; names of figures and tables must be unique"),
        ("sample", {"item": "sample"}, "plugins: sample: items: 'sample' is not a valid name of a figure or table"),
        ("sample", {"reads": "absent"}, "plugins: sample: items: figure_sample reads the unknown study absent"),
        (
            "sample",
            {"text": DECLARATION.replace("fresh-1shot", "fresh-oneshot")},
            "plugins: sample: items: figure_sample: set: 'fresh-oneshot' is not a prompt set",
        ),
        (
            "sample",
            {"text": DECLARATION.replace("A sample", "").replace('title=""', "title=None")},
            "study sample: items figure_sample: title must be a string, got None",
        ),
        (
            "sample",
            {"text": DECLARATION.replace("passes=1", "passes='one'")},
            r"study sample: \S+study\.py, line \d+: TypeError: passes must be a number, got 'one'",
        ),
        (
            "sample",
            {"text": DECLARATION.replace("__package__", "'sample'")},
            "study sample: package must be __package__, got 'sample'",
        ),
        ("sample", {"keys": "isolation"}, "settings: the key isolation is used by another study; choose another name"),
        ("sample", {"text": ""}, "study.py must define STUDY = Study"),
        ("sample", {"text": "x = 1\nx = y"}, r"study\.py, line 2: NameError: name 'y' is not defined"),
        (
            "sample",
            {"text": "x = (\n"},
            r"study\.py: SyntaxError: '\(' was never closed \(study\.py, line 1\)",
        ),
        (
            "sample",
            {"text": "import absent"},
            r"study\.py, line 1: ModuleNotFoundError: No module named 'absent'",
        ),
        ("sample", {"text": "STUDY = 1"}, "study.py must define STUDY = Study"),
        (
            "sample",
            {"text": DECLARATION.replace("__package__", "'somewhere.sample'")},
            "study sample: package must be __package__, got 'somewhere.sample'",
        ),
    ],
)
def test_a_plugin_with_a_mistake_is_refused(tmp_path, name, fields, fault):
    with pytest.raises(InputError, match=fault), plugins.added(folder(tmp_path, name, **fields)):
        pass


def test_a_plugin_without_compute_py_is_refused(tmp_path):
    place = folder(tmp_path)
    (place / "compute.py").unlink()
    with pytest.raises(InputError, match=r"study sample: \S+sample contains no compute\.py"), plugins.added(place):
        pass


def test_a_folder_that_is_no_plugin_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for place, fault in (
        ("absent", "is not a folder; give a folder"),
        ("empty", "contains no study.py; see docs/extending.md"),
    ):
        with pytest.raises(InputError, match=fault), plugins.added(tmp_path / place):
            pass


def test_two_plugins_of_the_same_name_are_refused(tmp_path):
    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    with pytest.raises(InputError, match="have the same name; rename one of the folders"), plugins.added(here, there):
        pass
