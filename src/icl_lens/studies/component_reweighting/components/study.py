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
    help="predictions of each head and MLP, and of weighted sums of them, with several templates",
    schema=SCHEMA,
    # Four templates with few demonstrations, and three with two budgets of labels in the prompt. This overestimates the tokens.
    cost=Cost(passes=10, queries=lambda settings: settings.queries),
    settings=Keys(
        "components",
        Settings,
        "Templates for the predictions of heads and MLPs, and re-weighting and calibration of their sum.",
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
                "Predictions of each head and each MLP: how often they are correct, and how often they are one label",
                "Mistral-Instruct-7B",
            ),
            (
                "cr_figure_2",
                "Accuracy of components with two templates that differ minimally",
                "Llama-2-7B",
            ),
            (
                "cr_figure_3",
                "Accuracy of the full model and of its best component, by training step",
                "Pythia-6.9B",
            ),
            (
                "cr_table_1",
                "Accuracy of the full model, of its best and of its worst component, and numbers of good, bad and "
                "label-biased components",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_table_2",
                "Similarity of the accuracies of components with other demonstrations and with other templates",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_table_3",
                "Accuracy of components re-weighted on a few labels, and of other methods that use the same labels",
                "Llama-2-7B, Llama-2-13B, Mistral-Instruct-7B and Llama-3-8B",
            ),
            (
                "cr_figure_anchors",
                "Accuracy of the heads, by their attention to label words and by their agreement with the prediction",
                "",
            ),
        )
    ),
    labels=("last", "all"),
)
