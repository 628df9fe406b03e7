"""The study label_probes: predictions of linear probes from the keys and values around label words.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, INTEGERS, TEXT, study_schema
from icl_lens.section import Section, Seed
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

Feature = Literal["key", "turned_key", "value"]
Target = Literal["token", "label"]


class Probe(NamedTuple):
    """A feature and the target that is predicted from it."""

    feature: Feature
    target: Target


PROBES: dict[Probe, str] = {
    Probe("key", "token"): "next token predicted from keys",
    Probe("turned_key", "token"): "next token predicted from keys after the rotary embedding",
    Probe("value", "label"): "label predicted from values",
}
"""The paper's two probes, and the first one again on keys after the rotary embedding, as attention uses them.

The values describe the probes in figures.
"""


class Settings(Section):
    """Settings for reading, fitting and testing the probes."""

    queries: int = Field(
        default=30,
        ge=1,
        description="Number of prompts per seed (the first ones); all if there are fewer. The features of all their "
        "demonstrations are in memory at the same time: 4 bytes x 3 x offsets x demonstrations x key and value heads of "
        "all layers x width.",
    )
    offsets: list[int] = Field(
        default=[-1, 0, 1, 2, 3],
        min_length=1,
        description="Positions to read, relative to the first token of a demonstration's label word (the paper's values).",
    )
    ridge: float = Field(
        default=0.01,
        gt=0,
        description="Penalty of the ridge regression, relative to sums over demonstrations (the paper's value).",
    )
    folds: int = Field(
        default=5, ge=2, description="Number of folds into which the prompts are divided. Each fold is tested once (ours)."
    )
    tokens: int = Field(
        default=5,
        ge=2,
        description="Number of most frequent next tokens that the probes distinguish. Texts with another most probable "
        "next token are excluded (ours).",
    )
    seed: Seed = Field(default=0, description="Seed of the division into folds.")


SCHEMA = study_schema(
    "label_probes",
    {
        "feature": TEXT,
        "target": TEXT,
        "offset": INTEGER,
        "layer": INTEGER,
        "head": INTEGER,
        "fold": INTEGER,
        "fitted": INTEGER,
        "classes": INTEGER,
        "accuracy": FLOAT,
        "majority": FLOAT,
        "members": INTEGERS,
        "asked": INTEGERS,
        "right": INTEGERS,
    },
    keys=("feature", "target", "offset", "layer", "head", "fold", "classes"),
)


def _shortage(settings: Settings, seeds: int, prompts: int) -> str:
    available = seeds * min(prompts, settings.queries)
    if available >= settings.folds:
        return ""
    return (
        f"{available} prompts cannot be divided into {settings.folds} folds; increase queries, seeds or "
        "studies.label_probes.queries, or reduce studies.label_probes.folds"
    )


STUDY = Study(
    package=__package__,
    help="accuracy of linear probes of the keys and values around label words, for each head",
    schema=SCHEMA,
    cost=Cost(passes=3, queries=lambda settings: settings.queries),
    settings=Keys("label_probes", Settings, "Linear probes of the keys and values around label words."),
    inputs="prepare",
    needs_gold=False,
    shortage=_shortage,
    items=tuple(
        # Figure 5 and its repeats. The built-in texts include none of the paper's further tasks.
        Item(
            name=f"kr_figure_{number}",
            title="Accuracy of linear probes of the keys and values around label words, by layer and position",
            notebook="kernel_regression/kr_figure_5",
            set="fresh-4shot",
            studies=("label_probes", "icl"),
            tasks=(task,),
            stand_ins=stand_ins,
            paper_models="GPT-J",
        )
        for number, task, stand_ins in (
            (5, "sst2", ()),
            (8, "rotten_tomatoes", ("trec",)),
            (11, "hate", ("agnews",)),
            (14, "irony", ("emoc",)),
            (17, "offensive", ("sst2_ab",)),
            (20, "mnli", ("agnews_abcd",)),
        )
    ),
    labels=("whole", "last", "all"),
)
