"""The items of the paper as data: which prompt sets, tasks and studies a figure or table shows, and how it is drawn.

Figures 3, 7 and 9 of *Label Words are Anchors* are one picture of different tasks and shots, so they share a notebook; so are 4
and 12, 5, 11 and 13, 8 and 10. The group ``organism`` is about the embedded model's training and ``precision`` about number
formats; ``all`` makes neither.
"""

from __future__ import annotations

from dataclasses import dataclass

# The studies of shared-1shot that the report walks a prompt through.
WALKED = ("flow", "tokens", "icl", "isolation")


@dataclass(frozen=True)
class Item:
    """One figure or table.

    Attributes:
        name: Its name as a Snakemake target, ``figure_3`` or ``table_4``.
        title: What it shows, in the paper's words.
        notebook: The notebook under ``notebooks/`` that draws it, without its ending.
        set: The prompt set it reads; empty when it reads none.
        studies: The artifacts it reads, per model and task.
        tensors: Those of them that it reads the tensors beside of, too.
        tasks: The tasks the paper shows in it; empty for every configured task.
        stand_ins: Tasks, the likeliest first, of which it shows one where none of ``tasks`` is configured. Such an item is
            about one task, so it shows a task of the user's own only where the config says so.
        paper_models: The models the paper shows in it; empty where its notebook does not say so.
        reads: Tables that it reads whatever is configured, relative to the results folder.
        one_prompt: Whether it draws a single prompt in some layers, which the config names.
        group: The target that makes it together with others of its kind.
        in_all: Whether ``all`` makes it, too.
        own_tasks: Whether its tasks are written for it alone: no corpus, and the models that the config names for it.
        compares_dtypes: Whether it compares number formats, and so shows only models that are there in float32 and in another.
    """

    name: str
    title: str
    notebook: str
    set: str = ""
    studies: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    paper_models: str = ""
    reads: tuple[str, ...] = ()
    one_prompt: bool = False
    group: str = "anchors"
    in_all: bool = True
    own_tasks: bool = False
    compares_dtypes: bool = False

    @property
    def kind(self) -> str:
        """``figure`` or ``table``."""
        return "table" if "table" in self.name.split("_") else "figure"


ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        Item(
            name="figure_1",
            title="Information flow in one prompt, in a shallow and in a deep layer",
            notebook="figure_1",
            set="fresh-1shot",
            studies=("flow", "tokens", "icl"),
            tasks=("sst2",),
            one_prompt=True,
        ),
        Item(
            name="figure_2",
            title="Both hypotheses on one prompt: label words gather information in shallow layers and give it in deep ones",
            notebook="figure_2",
            set="fresh-1shot",
            studies=("flow", "tokens", "icl"),
            tasks=("sst2",),
            one_prompt=True,
        ),
        Item(
            name="figure_3",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("sst2", "agnews"),
        ),
        Item(
            name="figure_7",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, one demonstration per class",
            notebook="figure_3",
            set="fresh-1shot",
            studies=("saliency", "icl"),
            tasks=("trec", "emoc"),
        ),
        Item(
            name="figure_9",
            title="Relative sizes of $S_{wp}$, $S_{pq}$ and $S_{ww}$ in each layer, two demonstrations per class",
            notebook="figure_3",
            set="fresh-2shot",
            studies=("saliency", "icl"),
        ),
        Item(
            name="figure_4",
            title="How often the answer survives when label words, or as many random other tokens, are isolated "
            "in the first or last layers, one demonstration per class",
            notebook="figure_4",
            set="shared-1shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_5",
            title="How well attention to the label words tells the prediction in each layer, one demonstration per class",
            notebook="figure_5",
            set="shared-1shot",
            studies=("deep_attention", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_6",
            title="Which classes are confused: predicted from the keys of their label words, and real",
            notebook="figure_6",
            set="ordered-1shot",
            studies=("diagnosis", "icl"),
            tasks=("trec",),
            paper_models="GPT2-XL",
        ),
        Item(
            name="figure_8",
            title="What survives by the number of isolated layers, one demonstration per class",
            notebook="figure_8",
            set="shared-1shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_10",
            title="What survives by the number of isolated layers, two demonstrations per class",
            notebook="figure_8",
            set="shared-2shot",
            studies=("isolation", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_11",
            title="How well attention to the label words tells the prediction in each layer, two demonstrations per class",
            notebook="figure_5",
            set="shared-2shot",
            studies=("deep_attention", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="figure_12",
            title="How often the answer survives isolation under labels that mean nothing (A and B), eight "
            "demonstrations per class",
            notebook="figure_4",
            set="shared-8shot",
            studies=("isolation", "icl"),
            tasks=("sst2_ab",),
            paper_models="LLaMA-33B",
        ),
        Item(
            name="figure_13",
            title="How well attention to labels that mean nothing (A and B) tells the prediction in each layer, "
            "eight demonstrations per class",
            notebook="figure_5",
            set="shared-8shot",
            studies=("deep_attention", "icl"),
            tasks=("sst2_ab",),
            paper_models="LLaMA-33B",
        ),
        Item(
            name="figure_14",
            title="Confusion predicted from more and fewer principal directions of the queries",
            notebook="figure_14",
            set="ordered-1shot",
            studies=("diagnosis", "icl"),
            tasks=("trec",),
            paper_models="GPT2-XL",
        ),
        Item(
            name="table_2",
            title="How often the answer survives when the demonstrations are compressed, and how often it is right",
            notebook="table_2",
            set="shared-1shot",
            studies=("compression", "icl"),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="table_3",
            title="How many times faster a query is behind compressed demonstrations",
            notebook="table_3",
            set="shared-1shot",
            studies=("speed",),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="table_6",
            title="How many times faster a query is behind compressed demonstrations, and how long both are",
            notebook="table_3",
            set="shared-1shot",
            studies=("speed",),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="table_1",
            title="Accuracy with the demonstrations as they are, with more of them, and with the attention to their label "
            "words re-weighted",
            notebook="table_1",
            set="shared-1shot",
            studies=("reweighting",),
            paper_models="GPT2-XL",
        ),
        Item(
            name="figure_reweighting",
            title="What re-weighting learns, and which classes are answered before and after it",
            notebook="figure_reweighting",
            set="shared-1shot",
            studies=("reweighting",),
            tensors=("reweighting",),
        ),
        Item(
            name="table_4",
            title="Templates and label words of each task",
            notebook="table_4",
        ),
        Item(
            name="table_5",
            title="Why word loyalty: predicted label and likeliest next tokens with label words isolated",
            notebook="table_5",
            set="shared-1shot",
            studies=("isolated_words",),
            tasks=("agnews",),
        ),
        Item(
            name="figure_controls",
            title="Both tests of the paper on the model as it is, with the demonstrations' labels shuffled, and on an "
            "untrained copy, one demonstration per class",
            notebook="figure_controls",
            set="shared-1shot",
            studies=("isolation_controls", "attention_controls"),
            # The fewest classes and the most: the paper has no such figure, and every task costs two jobs.
            tasks=("sst2", "trec"),
        ),
        Item(
            name="organism_learning_curve",
            title="How a model comes to learn in context: losses and accuracy by training step",
            notebook="organism_learning_curve",
            reads=("training/training.parquet", "training/evaluation.parquet"),
            group="organism",
            in_all=False,
        ),
        Item(
            name="table_precision",
            title="How far float16 and bfloat16 move each result from float32",
            notebook="table_precision",
            set="fresh-1shot",
            studies=("saliency", "isolation", "deep_attention", "icl"),
            group="precision",
            in_all=False,
            compares_dtypes=True,
        ),
        # Kernel regression (Han et al., TMLR 2025): attention of the last position.
        #
        # Kernel regression: texts alone, probes, hidden Markov models.
        #
        # Components (Chang et al., EMNLP 2024).
        #
        # Representation change (Yousefi et al., 2024).
        Item(
            name="rc_behaviour",
            title="How far answers are off with more and more examples, and with as many that tell nothing",
            notebook="rc_behaviour",
            set="paired",
            studies=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_hypotheses",
            title="What the prompts have in common, and how alike they are to the model with and without examples",
            notebook="rc_hypotheses",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_rsa",
            title="How well the similarity of representations agrees with what the prompts have in common, layer by layer",
            notebook="rc_rsa",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_probes",
            title="What can be read off the representations by a linear probe, layer by layer",
            notebook="rc_probes",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_attention_ratio",
            title="How much more the last token attends to what matters than to what does not, layer by layer",
            notebook="rc_attention_ratio",
            set="paired",
            studies=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_correlations",
            title="Whether answers improve where representations and attention change, query by query",
            notebook="rc_correlations",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            paper_models="Llama-2-70B and Vicuna-13B",
            group="representation_change",
        ),
        Item(
            name="rc_controls",
            title="Whether examples change more than as many examples that tell nothing",
            notebook="rc_controls",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",),
            tasks=("lines", "reading"),
            own_tasks=True,
            group="representation_change",
        ),
    )
}
