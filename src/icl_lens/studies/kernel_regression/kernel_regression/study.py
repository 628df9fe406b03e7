"""The study kernel_regression: how much the last position attends to each demonstration, for each head.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Figures 2 and 3 and Table 2.
"""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOAT, INTEGER, INTEGERS, SINGLES, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.item import Item
from icl_lens.studies.kernel_regression.keys import KEYS
from icl_lens.studies.study import Study

SCHEMA = study_schema(
    "kernel_regression",
    {
        "layer": INTEGER,
        "head": INTEGER,
        "gold": INTEGER,
        "prediction": INTEGER,
        "demo_labels": INTEGERS,
        "max": SINGLES,
        "mean": SINGLES,
        "label": SINGLES,
        "on_first": FLOAT,
        "on_texts": FLOAT,
        "on_labels": FLOAT,
        "on_rest": FLOAT,
        "on_query": FLOAT,
        "on_end": FLOAT,
    },
    keys=("layer", "head"),
    every_prompt=True,
)

STUDY = Study(
    package=__package__,
    help="attention of the last position to each demonstration, for each head, and similarity of the texts",
    schema=SCHEMA,
    cost=Cost(passes=1),
    settings=KEYS,
    tensors=True,
    checkpoints=lambda settings: settings.encoders,
    needs_gold=False,
    gold_columns=("gold",),
    labels=("whole", "last", "all"),
    items=(
        # Figures 2 and 3, repeated for each further task of the paper (the built-in texts include none of them) and for other
        # models (appendix D). The latter are shown if one of these models is configured. The paper does not say which Llama 2
        # it uses.
        *(
            Item(
                name=f"kr_figure_{first + offset}",
                title=title,
                notebook=f"kernel_regression/{notebook}",
                set="fresh-4shot",
                studies=("kernel_regression",),
                tensors=tensors,
                tasks=(task,),
                stand_ins=stand_ins,
                paper_models=models,
                hubs=hubs,
            )
            for first, task, stand_ins, models, hubs in (
                (2, "sst2", (), "GPT-J", ()),
                (6, "rotten_tomatoes", ("trec",), "GPT-J", ()),
                (9, "hate", ("agnews",), "GPT-J", ()),
                (12, "irony", ("emoc",), "GPT-J", ()),
                (15, "offensive", ("sst2_ab",), "GPT-J", ()),
                (18, "mnli", ("agnews_abcd",), "GPT-J", ()),
                (
                    21,
                    "sst2",
                    (),
                    "Llama 2",
                    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-70b-hf"),
                ),
                (23, "sst2", (), "Llama-3-8B", ("meta-llama/Meta-Llama-3-8B",)),
            )
            for offset, (notebook, tensors, title) in enumerate(
                (
                    (
                        "kr_figure_2",
                        ("kernel_regression",),
                        "Attention of the last position over the prompt, averaged over prompts, by layer and head",
                    ),
                    (
                        "kr_figure_3",
                        (),
                        "How often the label reconstructed from a head's attention is the model's prediction, and how "
                        "often it is correct",
                    ),
                )
            )
        ),
        Item(
            name="kr_figure_25",
            title="Attention of the last position over a single prompt, by layer and head",
            notebook="kernel_regression/kr_figure_2",
            set="fresh-4shot",
            studies=("kernel_regression",),
            tensors=("kernel_regression",),
            tasks=("sst2",),
            # The paper does not say which of its models it uses.
            paper_models="one of its models",
            hubs=(
                "EleutherAI/gpt-j-6b",
                "meta-llama/Llama-2-7b-hf",
                "meta-llama/Llama-2-13b-hf",
                "meta-llama/Llama-2-70b-hf",
                "meta-llama/Meta-Llama-3-8B",
            ),
        ),
        Item(
            name="kr_table_2",
            title="Accuracy of the model, of the reconstruction from its attention on held-out prompts, and of kernels on "
            "the texts only",
            notebook="kernel_regression/kr_table_2",
            set="fresh-4shot",
            studies=("kernel_regression",),
            tensors=("kernel_regression",),
            paper_models="GPT-J",
        ),
        Item(
            name="kr_figure_anchors",
            title="Two studies of the same heads: how often a head's attention reconstructs the prediction, how much of "
            "the attention goes to label words, and how well attention to label words predicts the model's output",
            notebook="kernel_regression/kr_figure_anchors",
            set="fresh-4shot",
            studies=("kernel_regression",),
        ),
    ),
)
