"""Declaration of the study ``ch_demonstrations``: its settings, the names in its table, and its cost."""

from __future__ import annotations

from pydantic import Field

from icl_lens.artifacts.schema import FLAG, FLOAT, INTEGER, TEXT, study_schema
from icl_lens.prompts.sets import per_class
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

KINDS = ("deleted", "masked", "unlabelled")
"""What happens to a demonstration that is missing from a coalition."""

PLAIN = "none"
"""Control: the demonstrations of the prompt."""

CONTROLS = ("flipped", "nonsense", "duplicate", "reversed")
"""Controls: other demonstrations, or another order, in the same prompt."""

PROMPT = "prompt"
"""Kind of the measures that are computed from the prompt with all demonstrations."""

SHAPLEY, LEAVE_ONE_OUT, CALIBRATED = "shapley", "leave_one_out", "calibrated"

MEASURES = (
    "saliency_label",
    "saliency_text",
    "saliency_forecast",
    "attention",
    "kernel",
    "similarity",
    "detail",
    "place",
    "random",
)
"""Measures that are compared with the Shapley values, see :mod:`icl_lens.studies.challenges.ch_demonstrations.compute`."""


class Settings(Section):
    """Settings of the study."""

    queries: int = Field(default=5, ge=1, description="Number of prompts per seed (the first ones); all if there are fewer.")
    control_queries: int = Field(
        default=1, ge=0, description="Number of these prompts for which the controls are run (the first ones of each seed)."
    )
    demonstrations: int = Field(
        default=6,
        ge=1,
        description="Maximum number of demonstrations per prompt. The number per class is reduced to fit, to at least one.",
    )
    exact: int = Field(
        default=6,
        ge=1,
        le=12,
        description="Largest number of demonstrations for which Shapley values are computed from all subsets. With more "
        "demonstrations, orders are sampled.",
    )
    pairs: int = Field(default=50, ge=2, description="Number of sampled pairs of an order and its reverse.")
    seed: int = Field(default=0, ge=0, description="Seed of the sample, of the controls and of the random measure.")


SCHEMA = study_schema(
    "ch_demonstrations",
    {
        "control": TEXT,
        "kind": TEXT,
        "measure": TEXT,
        "demonstration": INTEGER,
        "label": INTEGER,
        "changed": FLAG,
        "gold": INTEGER,
        "prediction": INTEGER,
        "value": FLOAT,
        "error": FLOAT,
        "margin": FLOAT,
        "empty_margin": FLOAT,
    },
    keys=("control", "kind", "measure", "demonstration"),
)


def _work(job: Job) -> Work:
    """Estimate the passes over the trees of all kinds and controls, and the backward pass of the measures."""
    settings = job.settings
    # A demonstration has about as many tokens as a query, and each class as many demonstrations.
    per_demonstration = max(1, job.query)
    shots = max(1, int(job.demonstrations / per_demonstration) // job.classes)
    players = job.classes * min(shots, per_class(settings.demonstrations, job.classes))
    demonstrations = players * per_demonstration
    exact = players <= settings.exact
    subsets = 2**players if exact else min(2**players, 2 * settings.pairs * players)
    prompts = job.seeds * min(job.queries, settings.queries)
    controls = job.seeds * min(job.queries, settings.queries, settings.control_queries)
    sets = prompts if job.fresh else job.seeds
    job = job._replace(demonstrations=demonstrations)
    # The mean length of a prompt with a subset of the demonstrations is half of that with all.
    half = job._replace(demonstrations=demonstrations / 2)
    runs = 3 * subsets * prompts + round(2.2 * subsets) * controls + 3 * subsets * sets
    tokens = runs * job.query + (4 * subsets * sets + 2 * subsets * min(sets, controls)) * per_demonstration
    trees = Work(prompts, tokens, tokens * (half.query + half.demonstrations), runs, tokens / max(1, prompts * job.query))
    return trees + one_pass(job._replace(fresh=True), prompts).times(2)


STUDY = Study(
    package=__package__,
    help="contribution of each demonstration to the gold margin (Shapley values), compared with saliency and attention",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work, kept="graph"),
    labels=("whole", "last", "all"),
    settings=Keys(
        "ch_demonstrations", Settings, "Shapley values of the demonstrations, and measures that are compared with them."
    ),
    inputs="prepare",
    shards="prefix",
    items=(
        Item(
            name="ch_figure_demonstrations",
            title="Contribution of each demonstration to the gold margin, and the measures that predict it, at most six "
            "demonstrations",
            notebook="challenges/ch_demonstrations",
            set="shared-2shot",
            studies=("ch_demonstrations",),
        ),
        Item(
            name="ch_figure_demonstration_controls",
            title="Contribution of a demonstration when its label or text is changed, when it occurs twice, and when the order "
            "is reversed",
            notebook="challenges/ch_demonstration_controls",
            set="shared-2shot",
            studies=("ch_demonstrations",),
        ),
        Item(
            name="ch_table_demonstrations",
            title="Gold margin with and without demonstrations, and Shapley values and leave-one-out effects of the "
            "demonstrations by their label",
            notebook="challenges/ch_table_demonstrations",
            set="shared-2shot",
            studies=("ch_demonstrations",),
        ),
    ),
)
