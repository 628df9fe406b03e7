"""Methods, settings and declaration of the study ``reweighting``.

*Label Words are Anchors*, section 3.1 and appendix H, Table 1.
"""

from __future__ import annotations

from pydantic import Field

from icl_lens.artifacts.schema import FLAG, FLOATS, INTEGER, TEXT, study_schema
from icl_lens.prompts.sets import AUXILIARY
from icl_lens.section import Section, Seed
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Further, Keys, Study

VANILLA, FEW_SHOT, REWEIGHTED = METHODS = ("vanilla", "few_shot", "reweighted")
"""Rows of Table 1: unchanged demonstrations, more demonstrations, and re-weighted demonstrations."""


class Settings(Section):
    """Settings of the training of beta and of the baselines."""

    learning_rate: float = Field(
        default=0.01, gt=0, description="Learning rate of Adam (the paper's value; the default of the released code is 0.1)."
    )
    epochs: int = Field(default=10, ge=1, description="Number of passes over the training examples, one example at a time.")
    auxiliary: int = Field(
        default=AUXILIARY,
        ge=1,
        description="Number of training examples per class. They follow the demonstrations in the same random draw.",
    )
    seed: Seed = Field(default=0, description="Seed of the order of the training examples, which is drawn anew in each epoch.")
    shots: int = Field(
        default=1 + AUXILIARY,
        ge=2,
        description="Maximum number of demonstrations per class of the baseline without re-weighting. If prompts are "
        "longer than the model's context, it is the largest number with which all prompts fit.",
    )


SCHEMA = study_schema(
    "reweighting",
    {
        "method": TEXT,
        "shots": INTEGER,
        "gold": INTEGER,
        "prediction": INTEGER,
        "correct": FLAG,
        "class_log_probs": FLOATS,
    },
    keys=("method", "shots"),
)


def _work(job: Job) -> Work:
    """Estimate each prompt unchanged, re-weighted, and with more demonstrations, and the training of the factors.

    The training reads each of its texts once, and runs the last token of each text forward and backward in each epoch.
    """
    prompts, settings = job.seeds * job.queries, job.settings
    examples = settings.auxiliary * job.classes
    few_shot = one_pass(job._replace(demonstrations=settings.shots * job.demonstrations), prompts)
    steps = 2 * settings.epochs * examples
    training = one_pass(job, job.seeds * examples)._replace(rows=0, passes=0, steps=steps)
    return one_pass(job, prompts).times(2) + few_shot + training._replace(tokens=training.tokens + job.seeds * steps)


STUDY = Study(
    package=__package__,
    help="predictions with re-weighted attention to label words, with unchanged attention, and with more demonstrations",
    schema=SCHEMA,
    cost=Cost(passes=3, work=_work, kept="states"),
    settings=Keys("reweighting", Settings, "Trained factors on the attention to label words, and the baselines."),
    further=(
        Further(
            "train",
            "a prompts table with training texts as queries and the same demonstrations (shared-1shot-auxiliary)",
            "shared-1shot-auxiliary",
        ),
        Further(
            "baseline",
            "a prompts table of the same queries with more demonstrations (shared-5shot)",
            lambda settings: f"shared-{settings.shots}shot",
        ),
    ),
    inputs="prepare",
    tensors=True,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="table_1",
            title="Accuracy with unchanged demonstrations, with more demonstrations, and with re-weighted attention to "
            "label words",
            notebook="anchors/table_1",
            set="shared-1shot",
            studies=("reweighting",),
            paper_models="GPT2-XL",
        ),
        Item(
            name="figure_reweighting",
            title="Trained factors of re-weighting, and predicted classes before and after re-weighting",
            notebook="anchors/figure_reweighting",
            set="shared-1shot",
            studies=("reweighting",),
            tensors=("reweighting",),
        ),
    ),
)
