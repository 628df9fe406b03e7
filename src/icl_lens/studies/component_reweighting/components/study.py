"""Declaration of the study ``components``; see :mod:`icl_lens.studies.component_reweighting.settings` for its settings."""

from __future__ import annotations

from icl_lens.artifacts.schema import INTEGER, TEXT, study_schema
from icl_lens.studies.component_reweighting.settings import Settings
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "components",
    {
        "template": TEXT,
        "method": TEXT,
        "labels": INTEGER,
        "gold": INTEGER,
        "prediction": INTEGER,
    },
    keys=("template", "method"),
)

STUDY = Study(
    package=__package__,
    help="what every head and MLP alone answers, and answers of weighted sums of them, under several templates",
    schema=SCHEMA,
    # Four templates with few demonstrations, and three with two budgets of labels in the prompt. This overestimates the tokens.
    cost=Cost(passes=10, queries=lambda settings: settings.queries),
    settings=Keys(
        "components",
        Settings,
        "Which templates heads and MLPs are asked under, and how their sum is re-weighted and calibrated.",
    ),
    inputs="prepare",
    tensors=True,
    items=tuple(
        Item(
            name=name,
            title=title,
            notebook=f"component_reweighting/{name}",
            set="labelled-24",
            studies=("components",),
            tensors=("components",),
            paper_models=models,
            over_training=name == "cr_figure_3",
        )
        for name, title, models in (
            (
                "cr_figure_1",
                "What each head and each MLP alone answers: how often it is right, and how often it says one label",
                "Mistral-Instruct-7B",
            ),
            (
                "cr_figure_2",
                "Components under two templates that differ by next to nothing",
                "Llama-2-7B",
            ),
            (
                "cr_figure_3",
                "The whole model and its best component in the course of training",
                "Pythia-6.9B",
            ),
            (
                "cr_table_1",
                "The whole model, its best and its worst component, and how many are good, bad or label-biased",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_table_2",
                "How alike the accuracies of components are under other demonstrations and other templates",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_table_3",
                "Components re-weighted on a few labels, and other uses of the same labels",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_figure_anchors",
                "Whether heads that attend to label words or reconstruct the answer are those that answer right",
                "",
            ),
        )
    ),
)
