"""The items of the paper as data: which prompt sets, tasks and studies a figure or table shows, and how it is drawn.

Figures 3, 7 and 9 of *Label Words are Anchors* are one picture of different tasks and shots, so they share a notebook; so are 4
and 12, 5, 11 and 13, 8 and 10. The group ``organism`` is about the embedded model's training and ``precision`` about number
formats; ``all`` makes neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# The papers that are rebuilt, as groups of items; the claims of each stand in resources/claims/GROUP.yaml.
PAPERS = ("anchors", "kernel_regression", "component_reweighting", "representation_change")

# The studies of shared-1shot that the report walks a prompt through.
WALKED = ("flow", "tokens", "icl", "isolation")

# Titles of the kernel regression items that the paper repeats, and the models of its appendix D; which Llama 2 is not said.
_KR_MAP = "Attention of the last position over the prompt, the mean over prompts, by layer and head"
_KR_ONE = "Attention of the last position over a single prompt, by layer and head"
_KR_HEADS = "How often the label that a head's attention reconstructs is the model's, and how often it is right"
_LLAMA_2 = ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-70b-hf")
_LLAMA_3 = ("meta-llama/Meta-Llama-3-8B",)


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
        hubs: The models that it is about, by their names on the hub; empty for every configured one. Another model is
            shown only where the config says so.
        reads: Tables that it reads whatever is configured, relative to the results folder.
        one_prompt: Whether it draws a single prompt in some layers, which the config names.
        group: The target that makes it together with others of its kind.
        in_all: Whether ``all`` makes it, too.
        over_training: Whether it shows models at several steps of their training, and so only those that say their step.
        own_tasks: Whether its tasks are written for it alone: no corpus, and the models that the config names for it.
        compares_precisions: Whether it compares number formats, and so shows only models that are there in float32 with exact
            products and in another format or with fast products.
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
    hubs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    one_prompt: bool = False
    group: str = "anchors"
    in_all: bool = True
    own_tasks: bool = False
    compares_precisions: bool = False
    over_training: bool = False

    @property
    def kind(self) -> str:
        """``figure`` or ``table``."""
        return "table" if "table" in self.name.split("_") else "figure"

    def stand_in_note(self, shown: Iterable[str]) -> list[str]:
        """A sentence that says which tasks stand in for those that the paper shows; none where none does.

        Args:
            shown: The tasks that are shown.
        """
        shown = list(dict.fromkeys(shown))
        if not self.stand_ins or set(shown) & set(self.tasks):
            return []
        return [f"The paper shows {', '.join(self.tasks)} here, which is not configured; {', '.join(shown)} stands in for it."]


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
            studies=("latency",),
            paper_models="GPT2-XL and GPT-J",
        ),
        Item(
            name="table_6",
            title="How many times faster a query is behind compressed demonstrations, and how long both are",
            notebook="table_3",
            set="shared-1shot",
            studies=("latency",),
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
            title="How far float16, bfloat16 and fast products move each result from exact float32",
            notebook="table_precision",
            set="fresh-1shot",
            studies=("saliency", "isolation", "deep_attention", "icl"),
            group="precision",
            in_all=False,
            compares_precisions=True,
        ),
        # Kernel regression (Han et al., TMLR 2025): attention of the last position.
        Item(
            name="kr_figure_2",
            title=_KR_MAP,
            notebook="kr_figure_2",
            set="fresh-4shot",
            studies=("kernel_regression",),
            tensors=("kernel_regression",),
            tasks=("sst2",),
            paper_models="GPT-J",
            group="kernel_regression",
        ),
        Item(
            name="kr_figure_3",
            title=_KR_HEADS,
            notebook="kr_figure_3",
            set="fresh-4shot",
            studies=("kernel_regression",),
            tasks=("sst2",),
            paper_models="GPT-J",
            group="kernel_regression",
        ),
        # Both for each further task of the paper; the built-in texts have none of them.
        *(
            Item(
                name=f"kr_figure_{number}",
                title=_KR_HEADS if drawn_by == "kr_figure_3" else _KR_MAP,
                notebook=drawn_by,
                set="fresh-4shot",
                studies=("kernel_regression",),
                tensors=() if drawn_by == "kr_figure_3" else ("kernel_regression",),
                tasks=(task,),
                stand_ins=(stand_in,),
                paper_models="GPT-J",
                group="kernel_regression",
            )
            for first, task, stand_in in (
                (6, "rotten_tomatoes", "trec"),
                (9, "hate", "agnews"),
                (12, "irony", "emoc"),
                (15, "offensive", "sst2_ab"),
                (18, "mnli", "agnews_abcd"),
            )
            for number, drawn_by in ((first, "kr_figure_2"), (first + 1, "kr_figure_3"))
        ),
        # Other models (appendix D), shown where one of them is configured; Figure 25's model is not stated.
        *(
            Item(
                name=f"kr_figure_{number}",
                title=title,
                notebook=drawn_by,
                set="fresh-4shot",
                studies=("kernel_regression",),
                tensors=() if drawn_by == "kr_figure_3" else ("kernel_regression",),
                tasks=("sst2",),
                paper_models=name,
                hubs=hubs,
                group="kernel_regression",
            )
            for number, drawn_by, name, hubs, title in (
                (21, "kr_figure_2", "Llama 2", _LLAMA_2, _KR_MAP),
                (22, "kr_figure_3", "Llama 2", _LLAMA_2, _KR_HEADS),
                (23, "kr_figure_2", "Llama-3-8B", _LLAMA_3, _KR_MAP),
                (24, "kr_figure_3", "Llama-3-8B", _LLAMA_3, _KR_HEADS),
                (25, "kr_figure_2", "one of its models", ("EleutherAI/gpt-j-6b", *_LLAMA_2, *_LLAMA_3), _KR_ONE),
            )
        ),
        Item(
            name="kr_table_2",
            title="Accuracy of the model, of what its attention reconstructs on held-out prompts, and of kernels on the texts "
            "alone",
            notebook="kr_table_2",
            set="fresh-4shot",
            studies=("kernel_regression",),
            tensors=("kernel_regression",),
            paper_models="GPT-J",
            group="kernel_regression",
        ),
        Item(
            name="kr_figure_controls",
            title="Kernel regression with inputs permuted, with labels flipped, and with the demonstrations in other orders",
            notebook="kr_figure_controls",
            set="fresh-4shot",
            studies=("kernel_regression", "kernel_regression_controls"),
            # The fewest classes and the most: the paper has no such figure, and every task costs a job.
            tasks=("sst2", "trec"),
            group="kernel_regression",
        ),
        Item(
            name="kr_figure_anchors",
            title="Two studies of the same heads: how often a head's attention reconstructs the answer, how much of it rests "
            "on label words, and how well that tells the answer",
            notebook="kr_figure_anchors",
            set="fresh-4shot",
            studies=("kernel_regression",),
            group="kernel_regression",
        ),
        #
        # Kernel regression: texts alone, probes, hidden Markov models.
        Item(
            name="kr_table_1",
            title="Accuracy on test texts as they are and rewritten: rare words, more complex syntax, typos",
            notebook="kr_table_1",
            set="fresh-4shot",
            studies=("rewritten",),
            tasks=("sst2",),
            paper_models="GPT-J",
            group="kernel_regression",
        ),
        # Figure 5 and its repeats; the built-in texts have none of the paper's further tasks.
        *(
            Item(
                name=f"kr_figure_{number}",
                title="What linear probes tell from the keys and values around label words, by layer and position",
                notebook="kr_figure_5",
                set="fresh-4shot",
                studies=("label_probes", "icl"),
                tasks=(task,),
                stand_ins=stand_ins,
                paper_models="GPT-J",
                group="kernel_regression",
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
        Item(
            name="kr_figure_4",
            title="How attention to a demonstration goes with the similarity of the predictions that its text and the query's "
            "announce alone, head by head",
            notebook="kr_figure_4",
            set="fresh-4shot",
            studies=("kernel_regression", "prediction_similarity"),
            tasks=("sst2",),
            paper_models="GPT-J",
            group="kernel_regression",
        ),
        Item(
            name="kr_table_3",
            title="Kernel regression and the exact Bayesian posterior on random hidden Markov models, by the number of "
            "demonstrations",
            notebook="kr_table_3",
            reads=("synthetic/hidden_markov.parquet",),
            group="kernel_regression",
        ),
        #
        # Components (Chang et al., EMNLP 2024).
        *(
            Item(
                name=name,
                title=title,
                notebook=name,
                set="labelled-24",
                studies=("components",),
                tensors=("components",),
                paper_models=models,
                group="component_reweighting",
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
