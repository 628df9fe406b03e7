"""Declaration of the study ``ch_labels``: its settings, the label conditions, and its cost."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, FLOATS, INTEGER, INTEGERS, TEXT, study_schema
from icl_lens.models.isolated_layers import main_layers
from icl_lens.prompts.demonstrations import CONTENT_FREE
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

Name = Literal["none", "gold", "inverted", "random", "random-true", "wrong", "one", "words", "letters", "strings"]
CONDITIONS: tuple[Name, ...] = get_args(Name)
"""Label conditions, in the order of the tables."""

ALWAYS = ("none", "gold")
"""Conditions that are always run, because the others are compared with them."""

DRAWN = ("random", "random-true", "wrong")
"""Conditions with random labels."""

NEW_WORDS = ("words", "letters", "strings")
"""Conditions with other label words."""

ISOLATED = ("label first", "label last", "random first", "random last")
"""Isolated positions and layers, in the order of the columns ``isolated_agrees`` and ``isolated_overlap``."""

UNDEFINED = -1
"""Class index f(y) if the demonstrations of class y do not have a unique most frequent label."""


class Settings(Section):
    """Settings of the study."""

    queries: int = Field(default=10, ge=1, description="Number of prompts per seed (the first ones); all if there are fewer.")
    flow_queries: int = Field(
        default=1,
        ge=0,
        description="Number of these prompts per seed for which the information flow is measured and label words are isolated.",
    )
    conditions: list[Name] = Field(
        default=list(CONDITIONS),
        description="Labels of the demonstrations: none (no demonstrations), gold, inverted (the label word of the next "
        "class), random (each label is drawn uniformly), random-true (drawn with the frequencies of the gold labels), wrong "
        "(drawn among the other classes), one (the same label in all demonstrations, for each class), and words, letters and "
        "strings (other label words, one for each class). none and gold are always run.",
    )
    draws: int = Field(default=2, ge=1, description="Number of draws of random, random-true and wrong labels.")
    layers: int | None = Field(
        default=None,
        ge=1,
        description="Number of first and of last layers in which label words are isolated. Empty: 5, or a fifth of the depth, "
        "rounded up, in models with fewer than 14 layers (as in Figure 4).",
    )
    content_free: list[str] = Field(
        default=list(CONTENT_FREE),
        min_length=1,
        description="Texts without content. The predictions for them calibrate the others.",
    )
    words: list[Annotated[str, Field(min_length=1)]] = Field(
        default=list(
            "Apple Bridge Candle Garden Hammer Island Jacket Kettle Lemon Mirror Needle Orange Paper Rabbit Saddle Tiger "
            "Velvet Window Carpet Desert Engine Falcon Ginger Helmet".split()
        ),
        description="Unrelated words for the condition words. The first suitable ones are used, if possible with as many "
        "tokens as the original label words.",
    )
    letters: list[Annotated[str, Field(min_length=1)]] = Field(
        default=list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), description="Letters for the condition letters."
    )
    strings: list[Annotated[str, Field(min_length=1)]] = Field(
        default=list(
            "foo bar vex nit orb wug dax zup blick quaz lem tove gyre plit snar yomp kez hurf jiv crux".split()
            + "mib alk ilp dulf rask ceb".split()
        ),
        description="Meaningless strings for the condition strings.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the random labels and of the random isolated positions.")


class Condition(NamedTuple):
    """Labels of the demonstrations. ``draw`` is the number of the draw, and the class for the condition ``one``."""

    name: Name
    draw: int


def conditions(settings: Settings, classes: int) -> list[Condition]:
    """Return all conditions that are run, in the order of the rows."""
    return [
        Condition(name, draw)
        for name in CONDITIONS
        if name in settings.conditions or name in ALWAYS
        for draw in range(settings.draws if name in DRAWN else classes if name == "one" else 1)
    ]


def isolated_layers(settings: Settings, depth: int) -> int:
    """Return the number of first and of last layers in which label words are isolated."""
    return main_layers(depth) if settings.layers is None else settings.layers


SCHEMA = study_schema(
    "ch_labels",
    {
        "condition": TEXT,
        "draw": INTEGER,
        "labels": INTEGERS,
        "gold_share": FLOAT,
        "gold": INTEGER,
        "shown": INTEGER,
        "zero_shot": INTEGER,
        "prediction": INTEGER,
        "calibrated": INTEGER,
        "log_probs": FLOATS,
        "content_free": FLOATS,
        "shown_mass": FLOAT,
        "own_mass": FLOAT,
        "s_wp": FLOATS,
        "s_pq": FLOATS,
        "s_ww": FLOATS,
        "shown_s_wp": FLOATS,
        "shown_s_pq": FLOATS,
        "shown_s_ww": FLOATS,
        "isolated_agrees": INTEGERS,
        "isolated_overlap": FLOATS,
    },
    keys=("condition", "draw"),
    every_prompt=True,
)


def _work(job: Job) -> Work:
    """Estimate the passes: predictions after shared demonstrations, then flow and isolation of a few prompts."""
    settings, depth = job.settings, job.layers
    with_labels = len(conditions(settings, job.classes)) - 1
    prompts = job.seeds * min(job.queries, settings.queries)
    sets = prompts if job.fresh else job.seeds
    # The content-free texts share the demonstrations with the prompts, and are short.
    total = one_pass(job, prompts, sets).times(with_labels) + one_pass(job._replace(demonstrations=0), prompts)
    flow_prompts = job.seeds * min(job.queries, settings.queries, settings.flow_queries)
    if flow_prompts:
        whole = one_pass(job, flow_prompts, flow_prompts)
        backward = 2 * (1 + len(set(settings.conditions) & {"inverted", *DRAWN, "one"}) / len(CONDITIONS))
        isolated = 3 + 2 * min(1.0, isolated_layers(settings, depth) / depth)
        total += whole.times(with_labels * (backward + isolated))
    return total._replace(prompts=prompts)


STUDY = Study(
    package=__package__,
    help="predictions, information flow and isolation with wrong, random or meaningless labels in the demonstrations",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work, kept="graph", vocabulary=True),
    settings=Keys("ch_labels", Settings, "Other labels in the demonstrations."),
    inputs="prepare",
    shards="prefix",
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="ch_figure_labels",
            title="Predictions with other labels in the demonstrations, one demonstration per class",
            notebook="challenges/ch_labels",
            set="shared-1shot",
            studies=("ch_labels",),
        ),
        Item(
            name="ch_figure_labels_flow",
            title="Information flow and isolated label words with other labels, one demonstration per class",
            notebook="challenges/ch_labels_flow",
            set="shared-1shot",
            studies=("ch_labels",),
        ),
        Item(
            name="ch_table_labels",
            title="Agreement, entropy, probabilities and calibration with other labels, one demonstration per class",
            notebook="challenges/ch_table_labels",
            set="shared-1shot",
            studies=("ch_labels",),
        ),
    ),
)
