"""Methods, settings and declaration of the study ``latency``.

*Label Words are Anchors*, section 3.2 and appendix I, Tables 3 and 6.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from icl_lens.artifacts.schema import FLOAT, INTEGER, TEXT, study_schema
from icl_lens.section import Section
from icl_lens.studies.cost import Cost, Job, Work, one_pass
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

Method = Literal["full", "hidden_anchor", "shared"]
"""The full prompt (the paper's baseline), the query after the kept positions, or the query after all positions."""
METHODS: tuple[Method, ...] = get_args(Method)


class Settings(Section):
    """Settings of the latency measurement: number of prompts and repeats."""

    prompts: int = Field(default=5, ge=1, description="Number of timed prompts per seed (the first ones).")
    repeats: int = Field(default=5, ge=1, description="Number of timed runs per prompt, after one run that is not timed.")


SCHEMA = study_schema(
    "latency",
    {
        "method": TEXT,
        "prompts": INTEGER,
        "repeat": INTEGER,
        "seconds": FLOAT,
        "prompt_tokens": FLOAT,
        "cache_tokens": INTEGER,
        "query_tokens": FLOAT,
        "demo_words": INTEGER,
        "query_words": FLOAT,
    },
    keys=("method", "prompts", "repeat"),
)


def _work(job: Job) -> Work:
    """Estimate the timed passes: each prompt alone and in a batch, with the full prompt and twice with a cache."""
    prompts = job.seeds * min(job.queries, job.settings.prompts)
    repeats = 2 * (job.settings.repeats + 1)
    full = one_pass(job._replace(fresh=True), prompts).times(repeats)
    cached = one_pass(job, prompts, prefixes=0).times(2 * repeats)
    return full + cached._replace(steps=3 * prompts * repeats / 2)


STUDY = Study(
    package=__package__,
    help="latency of a query with full and with compressed demonstrations",
    schema=SCHEMA,
    inputs="prepare",
    cost=Cost(passes=1, work=_work, vocabulary=True),
    settings=Keys("latency", Settings, "Timing of queries with full and with compressed demonstrations (Tables 3 and 6)."),
    needs_gold=False,
    alone=True,
    labels=("whole", "last", "all"),
    items=(
        Item(
            name="table_3",
            title="Speedup of a query with compressed demonstrations",
            notebook="anchors/table_3",
            set="shared-1shot",
            studies=("latency",),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="table_6",
            title="Speedup of a query with compressed demonstrations, and lengths of the demonstrations and of the query",
            notebook="anchors/table_3",
            set="shared-1shot",
            studies=("latency",),
            paper_models="GPT2-XL and GPT-J",
        ),
    ),
)
