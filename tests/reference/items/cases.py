"""Configurations whose items are compared with the references, and the list of items.

The models are the embedded ones with noise (:mod:`tests.fallible`), which make mistakes: with the embedded model itself, many
values would be 0 or 1. The cases are small, because the references compute one prompt at a time.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import yaml

from icl_lens.config import parse
from icl_lens.studies import registry

from ...conftest import REPOSITORY
from ...fallible import ORGANISM, READER, noisy
from . import anchors, component_reweighting, kernel_regression, representation_change
from .comparison import Item
from .inputs import Run

_ROW = ("model", "set", "task")
_CONDITION = (*_ROW, "target", "side", "layers", "metric")
_CURVE = (*_ROW, "two_classes", "metric", "layer")
_HEAD = (*_ROW, "metric", "layer", "head")
_PAIR = ("model", "task", "set", "seed", "keys", "components", "class_i", "class_j")
_QUERIES = ("model", "task", "distractors", "examples", "contrast")
_PROMPT = ("model", "task", "set", "seed", "prompt_id", "layer")
# Columns of a study's table that say which prompts share a text or demonstrations.
_TEXTS = ("query_index", "demonstrations")
_TIMES = ("ratio", "lowest", "highest", "shared", "shared_lowest", "shared_highest")
_TIMES += tuple(f"{kind}_{method}" for kind in ("seconds", "spread") for method in ("full", "hidden_anchor", "shared"))

# First number of the figures of kernel regression that show a task.
_FIGURES = {2: "sst2", 6: "trec", 9: "agnews", 15: "sst2_ab", 18: "agnews_abcd"}


def _kernel_figures(first: int, task: str) -> list[Item]:
    number = first + 3 if first == 2 else first + 2
    bins, probe = ("part", "place", "position"), ("feature", "target", "offset")
    return [
        Item(f"kr_figure_{first}", partial(kernel_regression.map_rows, task=task), (*_HEAD, *bins), scale=("metric",)),
        Item(f"kr_figure_{first + 1}", partial(kernel_regression.head_rows, task=task), _HEAD),
        Item(f"kr_figure_{number}", partial(kernel_regression.probe_rows, task=task), (*_HEAD, *probe)),
    ]


ITEMS = (
    Item("figure_1", anchors.figure_1, (*_PROMPT, "query", "key"), ("drawn", *_TEXTS), scale=("layer",)),
    Item("figure_2", anchors.figure_2, (*_PROMPT, "path", "demonstration"), scale=("layer",)),
    *(
        Item(name, getattr(anchors, name), (*_ROW, "metric", "layer"), ("title", "untrained"))
        for name in ("figure_3", "figure_7", "figure_9")
    ),
    *(
        Item(name, getattr(anchors, name), _CONDITION, scale=("metric",))
        for name in ("figure_4", "figure_8", "figure_10", "figure_12")
    ),
    *(Item(name, getattr(anchors, name), _CURVE, scale=("metric",)) for name in ("figure_5", "figure_11", "figure_13")),
    *(Item(name, getattr(anchors, name), _PAIR, _TEXTS) for name in ("figure_6", "figure_14")),
    Item("figure_controls", anchors.figure_controls, ("control", *_CONDITION, "two_classes", "layer"), scale=("metric",)),
    Item("figure_reweighting", anchors.figure_reweighting, ("model", "layer", "head", "task", "method", "class")),
    Item("table_1", anchors.table_1, ("model", "task", "method")),
    Item("table_2", anchors.table_2, (*_ROW, "method", "positions")),
    *(Item(name, anchors.table_3, (*_ROW, "together"), _TIMES) for name in ("table_3", "table_6")),
    Item("table_5", anchors.table_5, ("model", "task", "label words isolated")),
    *(item for first, task in _FIGURES.items() for item in _kernel_figures(first, task)),
    Item("kr_figure_4", partial(kernel_regression.similarity_rows, task="sst2"), _HEAD),
    Item("kr_figure_controls", kernel_regression.figure_controls, (*_ROW, "control", "metric")),
    Item("kr_figure_anchors", kernel_regression.figure_anchors, (*_HEAD, "first", "second"), scale=("metric",)),
    Item("kr_table_1", kernel_regression.table_1, (*_ROW, "metric", "rewriting"), ("paper",)),
    Item("kr_table_2", kernel_regression.table_2, (*_ROW, "quantity", "against", "how"), ("note",)),
    Item("kr_table_3", kernel_regression.table_3, ("model", "metric", "n"), scale=("metric",)),
    Item("cr_figure_1", component_reweighting.figure_1, ("model", "task", "template", "seed", "kind", "layer", "head")),
    Item("cr_figure_2", component_reweighting.figure_2, ("model", "task", "kind", "layer", "head")),
    Item("cr_figure_anchors", component_reweighting.figure_anchors, ("model", "task", "pair", "layer", "head")),
    Item("cr_table_1", component_reweighting.table_1, ("model", "task", "measure"), scale=("measure",)),
    Item("cr_table_2", component_reweighting.table_2, ("model", "task", "pair", "measure"), scale=("measure",)),
    Item("cr_table_3", component_reweighting.table_3, ("model", "task", "method")),
    Item("rc_behaviour", representation_change.behaviour, (*_QUERIES, "measure"), scale=("measure", "task")),
    Item("rc_attention_ratio", representation_change.attention_ratio, (*_QUERIES, "kind", "below", "of", "layer")),
    Item("rc_rsa", representation_change.rsa, (*_QUERIES, "hypothesis", "pooling", "of", "layer")),
    Item("rc_probes", representation_change.probes, (*_QUERIES, "component", "of", "layer")),
    Item("rc_controls", representation_change.controls, (*_QUERIES, "quantity"), scale=("quantity", "task")),
    Item("rc_correlations", representation_change.correlations, (*_QUERIES, "improvement", "change", "of", "layer")),
    Item("rc_hypotheses", representation_change.maps, ("model", "task", "matrix", "row", "column")),
    Item("figure_recency", anchors.figure_recency, (*_ROW, "layer", "place")),
)
"""Each item that is compared, in the papers' order."""

NOT_COMPARED = {
    "table_4": "templates and label words, without computed values",
    "table_precision": "rounding of number formats; the references run in float32",
    "cr_figure_3": "training steps, of which the embedded model has one; its rows are those of cr_table_1",
    "organism_learning_curve": "training",
    "ch_figure_cuts": "means of a table that tests/unit/test_edge_cuts.py compares row by row",
    "ch_figure_cut_layers": "means of the same table",
    "ch_table_cuts": "means of the same table",
    "ch_figure_saliency": "rank correlations of a table that tests/unit/test_ch_saliency.py compares row by row",
    "ch_figure_saliency_cells": "means of the same table",
    "ch_figure_saliency_forecast": "means of the same table",
    "ch_figure_labels": "means of a table that tests/unit/test_ch_labels.py compares row by row",
    "ch_figure_labels_flow": "means of the same table",
    "ch_table_labels": "means of the same table",
    "ch_figure_demonstrations": "means of a table that tests/unit/test_demonstrations.py compares row by row",
    "ch_figure_demonstration_controls": "means of the same table",
    "ch_table_demonstrations": "means of the same table",
}
"""Items that are not compared, and why."""

_STUDIES = {
    "isolation": {"draws": 2},
    "controls": {"queries": 4, "draws": 2},
    "compression": {"draws": 3, "positions": ["continued", "restarted"]},
    "latency": {"prompts": 2, "repeats": 1},
    "flow": {"seeds": 1, "prompts": 1},
    "reweighting": {"epochs": 2},
    "kernel_regression": {"permutations": 20, "control_queries": 3, "orders": 2},
    "label_probes": {"queries": 6, "folds": 3},
    "rewritten": {"queries": 6},
    "components": {"queries": 8, "epochs": 60, "calibration_epochs": 60, "sweep": [0.0]},
    "hidden_markov": {
        **{"tasks": 4, "states": 16, "observations": 20, "pretraining": 200, "demonstrations": [1, 2, 4, 8], "limit": 32},
        **{"trials": 4, "seeds": [0, 1]},
    },
    "representation_change": {
        **{"new_tokens": 3, "permutations": 19, "folds": 2},
        "lines": {"slopes": [5.0, 10.0, 15.0], "intercepts": [0.0, 5.0], "queries_per_line": 2, "examples": [0, 1, 2]},
        "reading": {"queries": 20, "distractors": [0, 1], "examples": [0, 1]},
    },
}

CASES = {
    "one": {"tasks": ["sst2"], "seeds": [42], "queries": 8, "plugins": ["examples/recency"]},
    "two": {
        **{"tasks": ["agnews", "trec"], "seeds": [42, 43], "queries": 8},
        "groups": ["anchors", "kernel_regression", "component_reweighting"],
    },
}
"""One task and one seed for every study; and two tasks and two seeds, which also test the order of averaging."""


def config_of(name: str, folder: Path) -> dict:
    """Return the config of a case, and create its models in a folder.

    Args:
        name: Key of :data:`CASES`.
        folder: Folder of the models and results.
    """
    for source, model in ((ORGANISM, folder / "fallible"), (READER, folder / "reader")):
        if not model.exists():
            shutil.rmtree(folder / "model", ignore_errors=True)
            noisy(source, folder / "model").rename(model)
    return {
        **CASES[name],
        "models": [{"name": "fallible", "path": str(folder / "fallible")}],
        "representation_models": [{"name": "reader", "path": str(folder / "reader")}],
        "device": "cpu",
        "results": str(folder / name),
        "studies": _STUDIES,
    }


def items_of(config: dict) -> list[Item]:
    """Return the items that a config shows, of its groups and plugins."""
    parsed, known = parse.parse(config), registry.items()
    left_out = {*registry.papers()} - {*parsed.groups}
    shown = [item for item in ITEMS if item.name in known and known[item.name].group not in left_out]
    return [item for item in shown if all(parsed.shown(item.name))]


def run_of(config: dict) -> Run:
    """Return the run of a config, with the default of each setting that it does not name."""
    defaults = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    studies = {name: own | config["studies"].get(name, {}) for name, own in defaults["studies"].items()}
    (model,), (reader,) = config["models"], config["representation_models"]
    return Run(
        results=Path(config["results"]),
        config={**defaults, **config, "studies": studies},
        model=model["name"],
        folder=model["path"],
        readers=(reader["name"], reader["path"]),
    )


def csv_of(config: dict, item: str) -> Path:
    """Return the path of an item's CSV."""
    return Path(config["results"]) / ("tables" if "table" in item else "figures") / f"{item}.csv"


def write(config: dict, path: Path) -> Path:
    """Write a config (JSON is valid YAML)."""
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
