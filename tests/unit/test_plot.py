"""Drawings of the studies' tables by the public API."""

import inspect
import json

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import icl_lens
from icl_lens.api import plot
from icl_lens.report import figures
from icl_lens.studies import registry
from icl_lens.studies.anchors.deep_attention import summary as deep_attention_summary
from icl_lens.studies.anchors.saliency import summary as saliency_summary
from icl_lens.studies.kernel_regression import heads
from icl_lens.studies.kernel_regression.settings import Settings as KernelSettings

from ..conftest import REPOSITORY
from .test_components_summary import tensors as tensors_of_components

FILMS = [
    ("a joy for grownups , thanks to hilarious music", 1),
    ("every screenplay in this northern caper is irritating", 0),
    ("the opening is charming , and the wardrobe humane", 1),
    ("the lovers are awkward and the lead tires children", 0),
]
NEWS = [
    ("Most dissidents mock recent statement.", 0),
    ("Three golfers blamed the tennis near Chicago.", 1),
    ("The auditors who delayed Palmer resist the forecast.", 2),
    ("Late Japanese astronomers revive orbit agreement.", 3),
]


def prompts_of(task, examples, fresh=True):
    """Return one prompt per example; its demonstrations are the others, or always the first two of another query."""
    found = []
    for number, (query, gold) in enumerate(examples):
        others = [each for each in examples if each[0] != query]
        shown = others[number % 2 :] + others[: number % 2] if fresh else examples[:2]
        found.append(icl_lens.Prompt.from_examples(task, shown, query, gold=gold))
    return found


def reweighted(seeds=(0, 1), prompts=6):
    """Return a result of the study reweighting with arbitrary values."""
    generator = np.random.default_rng(0)
    rows = [
        {
            "model": "m", "task": "sst2", "set": "own", "seed": seed, "prompt_id": 10 * seed + number, "query_index": number,
            "demonstrations": 0, "method": method, "shots": 1, "gold": number % 2, "prediction": int(generator.integers(2)),
            "class_log_probs": [-0.7, -0.7],
        }
        for seed in seeds
        for number in range(prompts)
        for method in ("vanilla", "few_shot", "reweighted")
    ]  # fmt: skip
    rows = pd.DataFrame(rows)
    return icl_lens.Result(
        rows.assign(correct=rows["gold"] == rows["prediction"]),
        {f"beta_{seed}": generator.normal(size=(3, 2, 4)).astype(np.float32) for seed in seeds},
    )


def components(task="sst2"):
    """Return a result of the study components with arbitrary values."""
    made = tensors_of_components()
    rows = [
        {"template": template, "method": method, "labels": 2, "prediction": 0 if method == "icl" else int(gold),
         "gold": int(gold), "seed": int(seed), "prompt_id": int(number), "query_index": int(number), "demonstrations": 0}
        for template in ("f1", "f2", "contrast")
        for method in ("icl", "few_shot-12", "comprw-12")
        for number, seed, gold in zip(made["prompt_id"], made["seed"], made["gold"], strict=True)
    ]  # fmt: skip
    return icl_lens.Result(pd.DataFrame(rows).assign(model="m", task=task, set="own"), made)


@pytest.fixture(scope="module")
def frames():
    """Return a table of each study that has a function, of two tasks with several demonstration sets, by the study's name."""
    model = icl_lens.load("embedded")
    tables = {}
    names = ("saliency", "isolation", "deep_attention", "compression", "icl", "flow", "tokens")
    for name in names:
        function, settings = getattr(icl_lens, name), {"isolation": {"layers": [1, 2], "draws": 1}, "compression": {"draws": 1}}
        both = [
            function(model, prompts_of(task, texts), **settings.get(name, {}))
            for task, texts in (("sst2", FILMS), ("agnews", NEWS))
        ]
        tables[name] = pd.concat(both, ignore_index=True)
    found = icl_lens.kernel_regression(model, prompts_of("sst2", FILMS * 2))
    return {**tables, "kernel_regression": found, "reweighting": reweighted(), "components": components()}


FUNCTIONS = [name for name in plot.__all__ if name not in ("compress", "reweight")]


def draw(name, frames, frame=None, **options):
    """Call a function with a frame, by default that of the fixture."""
    frame = frames[name] if frame is None else frame
    more = (frames["tokens"],) if name == "flow" else ()
    return getattr(plot, name)(frame, *more, **options)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def panels_of(name):
    """Return how many axes a function needs for the frame of the fixture."""
    return {"isolation": 4, "kernel_regression": 2, "reweighting": 3, "components": 2}.get(name, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_figure_leaves_no_state_behind(name, frames):
    pyplot.close("all")
    before, red = dict(mpl.rcParams), to_rgb("r")
    figure = draw(name, frames)
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert to_rgb("r") == red
    assert figure.get_figwidth() == figures.WIDTH
    assert figure.get_figheight() < 12


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_figure_is_drawn_on_given_axes(name, frames):
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, panels_of(name))
    assert draw(name, frames, axes=axes) is figure
    assert all(panel.has_data() or panel.texts for panel in axes)
    with pytest.raises(icl_lens.InputError, match=rf"plot\.{name}: axes must be {panels_of(name)} Matplotlib axes"):
        draw(name, frames, axes=Figure().subplots(1, 5))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_frame_without_rows_or_columns_is_one_sentence(name, frames):
    frame = frames[name].rows if isinstance(frames[name], icl_lens.Result) else frames[name]
    with pytest.raises(icl_lens.InputError, match=rf"plot\.{name}: frame has no rows; compute it for at least one prompt"):
        draw(name, frames, frame.iloc[:0])
    for column in ("task", "layer" if "layer" in frame and name != "isolation" else "prediction"):
        if column not in frame:
            continue
        message = rf"plot\.{name}: frame: column '{column}' is missing; pass the DataFrame that icl_lens\.{name} returns"
        if name == "isolation" and column == "prediction":
            continue
        with pytest.raises(icl_lens.InputError, match=message):
            draw(name, frames, frame.drop(columns=column))
    with pytest.raises(icl_lens.InputError, match=rf"plot\.{name}: frame must be the DataFrame .*, got list"):
        draw(name, frames, [1])


def test_each_study_has_a_function_or_names_the_notebook_that_draws_it(frames):
    assert {*FUNCTIONS} <= {*registry.packages()}
    items = registry.items()
    for name in sorted({*registry.packages()} - {*FUNCTIONS}):
        with pytest.raises(
            icl_lens.InputError, match=rf"plot has no function for the study {name}; its \w+ is drawn by"
        ) as error:
            getattr(icl_lens.plot, name)(frames["icl"])
        notebook = str(error.value).partition("drawn by ")[2].split()[0]
        assert (REPOSITORY / notebook).is_file()
        item = str(error.value).rpartition("snakemake ")[2].strip(")")
        assert notebook == f"notebooks/{items[item].notebook}.ipynb"
    with pytest.raises(AttributeError, match="no attribute 'of_the_moon'"):
        icl_lens.plot.of_the_moon  # noqa: B018


def test_the_style_is_that_of_the_figures():
    with mpl.rc_context():
        figures.use_style()
        expected = dict(mpl.rcParams)
    with figures.style():
        found = dict(mpl.rcParams)
    assert {name for name in expected if found[name] != expected[name]} == set()


def bands(axes):
    """Return the lower and the upper end of each band at each x, and leave out bands without height."""
    found = []
    for band in axes.collections:
        points = pd.DataFrame(
            np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))]), columns=["x", "y"]
        )
        ends = points.groupby("x")["y"].agg(["min", "max"])
        if (ends["max"] - ends["min"]).max() > 1e-12:
            found.append(ends)
    return found


def test_saliency_shows_the_shares_and_the_intervals_of_the_summary(frames):
    figure = plot.saliency(frames["saliency"], frames["icl"])
    summary = saliency_summary.summarise(frames["saliency"])
    for axes, task in zip(figure.axes, ("sst2", "agnews"), strict=True):
        for line, metric in zip(axes.lines, saliency_summary.METRICS, strict=True):
            expected = summary[(summary["task"] == task) & (summary["metric"] == metric)]
            np.testing.assert_array_equal(line.get_ydata(), expected["share"])
            assert expected["low"].notna().all()
            dark = bands(axes)[saliency_summary.METRICS.index(metric)]
            np.testing.assert_allclose(dark.to_numpy(), expected[["low", "high"]])
    assert [title.split("\n")[0] for title in titles(figure)] == ["SST-2", "AGNews"]
    assert "accuracy" in titles(figure)[0]
    assert "(4 prompts)" in titles(figure)[0]


def test_one_demonstration_set_has_no_interval():
    model = icl_lens.load("embedded")
    shared = prompts_of("sst2", FILMS, fresh=False)[2:]
    for prompts in (shared, shared[:1]):
        assert bands(plot.saliency(icl_lens.saliency(model, prompts)).axes[0]) == []
        isolation = plot.isolation(icl_lens.isolation(model, prompts, layers=[1, 2], draws=1))
        assert [bands(axes) for axes in isolation.axes] == [[], []]
        bars = plot.compression(icl_lens.compress(model, prompts, draws=1)).axes[0]
        assert all(container.errorbar is None for container in bars.containers)
        rows = icl_lens.kernel_regression(model, prompts)
        if len(prompts) > 1:
            assert len(plot.kernel_regression(rows).axes) == 3


def test_several_models_tasks_and_seeds_are_panels_of_one_figure(frames):
    second = frames["saliency"].assign(model="other", seed=1)
    third = frames["saliency"].assign(seed=1, prompt_id=lambda rows: rows["prompt_id"] + 100)
    figure = plot.saliency(pd.concat([frames["saliency"], second, third]))
    assert titles(figure) == ["embedded, SST-2", "embedded, AGNews", "other, SST-2", "other, AGNews"]
    assert len(titles(plot.saliency(pd.concat([frames["saliency"], frames["saliency"].assign(set="other")])))) == 4


def test_isolation_is_curves_or_bars(frames):
    curves = plot.isolation(frames["isolation"])
    assert [axes.get_ylabel().split("\n")[0] for axes in curves.axes] == ["label loyalty", "word loyalty"] * 2
    bars = plot.isolation(frames["isolation"], layers=2)
    assert len(bars.axes) == 2
    found = frames["isolation"].query("task == 'sst2' and layers == 2 and target == 'label' and side == 'first'")
    assert bars.axes[0].patches[0].get_height() == pytest.approx(found["label_agrees"].mean())
    with pytest.raises(
        icl_lens.InputError, match=r"plot\.isolation: the frame has no rows with 5 isolated layers; choose .* 1, 2"
    ):
        plot.isolation(frames["isolation"], layers=5)
    with pytest.raises(icl_lens.InputError, match=r"plot\.isolation: the frame has neither label words nor random tokens"):
        plot.isolation(frames["isolation"].assign(target="newline"))


def test_deep_attention_shows_the_attention_or_the_auc(frames):
    plain = plot.deep_attention(frames["deep_attention"])
    one = frames["deep_attention"].query("task == 'agnews' and `class` == 2").groupby("layer")["attention"].mean()
    np.testing.assert_allclose(plain.axes[1].lines[2].get_ydata(), one)
    assert [text.get_text() for text in plain.axes[1].get_legend().get_texts()] == ["World", "Sports", "Business", "Technology"]
    auc = plot.deep_attention(frames["deep_attention"], frames["icl"])
    curves, _ = deep_attention_summary.summarise(frames["deep_attention"], frames["icl"])
    expected = curves.query("task == 'sst2' and metric == 'auc' and two_classes == 'normalised'")["value"]
    np.testing.assert_array_equal(auc.axes[0].lines[0].get_ydata(), expected)
    with pytest.raises(icl_lens.InputError, match=r"plot\.deep_attention: answers: prompt 3 of sst2 \(embedded\) is missing"):
        plot.deep_attention(frames["deep_attention"], frames["icl"].query("prompt_id != 3"))
    with pytest.raises(
        icl_lens.InputError, match=r"plot\.deep_attention: answers must be the DataFrame that icl_lens\.icl returns"
    ):
        plot.deep_attention(frames["deep_attention"], frames["tokens"])


def test_flow_draws_the_edges_of_one_prompt(frames):
    figure = plot.flow(frames["flow"], frames["tokens"], prompt_id=1, layers=[0, "deep"])
    assert titles(figure) == ["layer 0 (of 0 to 5)", "deep layer 4 (of 0 to 5)"]
    edges = frames["flow"].query("task == 'sst2' and prompt_id == 1 and layer == 0")
    assert len(figure.axes[0].collections[0].get_segments()) == min(500, len(edges))
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"Negative", "Positive", "wardrobe"} <= words
    for options, message in (
        ({"prompt_id": 9}, r"plot\.flow: prompt 9 is not in the frame; choose from 0, 1, 2, 3"),
        ({"layers": [6]}, r"plot\.flow: invalid layers \[6\]; use a list of numbers from 0 to 5, 'shallow' or 'deep'"),
        ({"layers": ["middle"]}, r"plot\.flow: invalid layers \['middle'\]"),
        ({"layers": []}, r"plot\.flow: invalid layers \[\]"),
        ({"layers": 3}, r"plot\.flow: invalid layers 3; use a list"),
    ):
        with pytest.raises(icl_lens.InputError, match=message):
            plot.flow(frames["flow"], frames["tokens"], **options)
    with pytest.raises(icl_lens.InputError, match=r"plot\.flow: tokens: the table lacks prompt 0"):
        plot.flow(frames["flow"], frames["tokens"].query("prompt_id == 3"))
    with pytest.raises(
        icl_lens.InputError, match=r"plot\.flow: tokens: column 'token' is missing; pass .* icl_lens\.tokens returns"
    ):
        plot.flow(frames["flow"], frames["icl"].assign(position=0))


def test_compression_and_answers_do_not_need_gold_labels(frames):
    model = icl_lens.load("embedded")
    prompts = [each.with_gold(None) for each in prompts_of("sst2", FILMS)]
    labels = plot.compression(icl_lens.compress(model, prompts, draws=1)).axes[0].get_legend_handles_labels()[1]
    assert labels == ["label loyalty", "word loyalty"]
    labels = plot.compression(frames["compression"]).axes[0].get_legend_handles_labels()[1]
    assert labels == ["accuracy (uncompressed)", "label loyalty", "word loyalty", "accuracy"]
    figure = plot.icl(icl_lens.icl(model, prompts))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["unknown (4)"]
    assert titles(figure) == ["SST-2"]


def test_icl_names_the_classes(frames):
    figure = plot.icl(frames["icl"].query("task == 'agnews'"), label_words=[" a", " b$", " c", " d"])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "b$", "c", "d"]
    with pytest.raises(icl_lens.InputError, match=r"plot\.icl: label_words has 1 words, but the frame has 2 classes"):
        plot.icl(frames["icl"], label_words=["a"])


def test_reweighting_and_components_use_tensors_if_there_are_any(frames):
    result = frames["reweighting"]
    assert len(plot.reweighting(result).axes) == 4  # with the colour bar
    assert len(plot.reweight(result.rows).axes) == 2
    image = plot.reweighting(result).axes[2].images[0].get_array()
    np.testing.assert_allclose(image, np.mean([beta.mean(-1) for beta in result.tensors.values()], 0).T)
    with pytest.raises(icl_lens.InputError, match=r"plot\.reweighting: tensors: 'beta_0' is missing"):
        plot.reweighting(result._replace(tensors={}))
    result = frames["components"]
    assert plot.components(result).axes[0].get_ylabel() == "accuracy"
    assert [text.get_text() for text in plot.components(result.rows).axes[0].get_yticklabels()] == [
        "icl",
        "few_shot-12",
        "comprw-12",
    ]
    with pytest.raises(icl_lens.InputError, match=r"plot\.components: tensors: 'gold' is missing"):
        plot.components(result._replace(tensors={name: value for name, value in result.tensors.items() if name != "gold"}))
    two = result._replace(rows=pd.concat([result.rows, result.rows.assign(task="trec")]))
    with pytest.raises(
        icl_lens.InputError, match=r"plot\.components: tensors belong to one model, task and set, but the frame has 2"
    ):
        plot.components(two)


def test_kernel_regression_shows_the_agreement_of_each_head(frames):
    figure = plot.kernel_regression(frames["kernel_regression"])
    found = heads.by_head(frames["kernel_regression"].rows, KernelSettings())
    expected = found[found["metric"] == "vs model"].pivot(index="layer", columns="head", values="value")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_documented(name):
    text = inspect.getdoc(getattr(plot, name))
    for parameter in inspect.signature(getattr(plot, name)).parameters:
        assert f"\n    {parameter}: " in text
    assert "\nReturns:\n" in text
    assert "\nRaises:\n" in text


@pytest.mark.parametrize(
    ("notebook", "functions"),
    [
        ("anchors/figure_1", ["flow", "drawn", "flow_handles"]),
        ("anchors/figure_3", ["shares"]),
        ("anchors/figure_4", ["loyalty_bars"]),
        ("anchors/figure_5", ["attention_auc"]),
        ("anchors/figure_8", ["loyalty_curves", "loyalty_handles"]),
        ("anchors/figure_reweighting", ["predicted_classes"]),
    ],
)
def test_the_notebooks_of_the_figures_draw_with_the_same_functions(notebook, functions):
    cells = json.loads((REPOSITORY / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    source = "".join(line for cell in cells for line in cell["source"])
    own = inspect.getsource(plot)
    for name in functions:
        assert f"anchor_panels.{name}(" in source
        assert f"anchor_panels.{name}(" in own
