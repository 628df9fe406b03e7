"""Declaration of the study ``representation_change``.

Its settings are in :mod:`icl_lens.studies.representation_change.settings`, because the modules that write its prompts need them
too.
"""

from __future__ import annotations

from icl_lens.artifacts.schema import FLOATS, INTEGER, TEXT, study_schema
from icl_lens.studies.cost import Cost, Job, Work
from icl_lens.studies.item import Item
from icl_lens.studies.representation_change.schema import PAIRED_PROMPTS, QUERY
from icl_lens.studies.representation_change.settings import Settings
from icl_lens.studies.study import Keys, Study

SCHEMA = study_schema(
    "representation_change",
    {
        **QUERY,
        "answer": TEXT,
        "candidate_log_probs": FLOATS,
        "relevant": FLOATS,
        "irrelevant": FLOATS,
        "context": FLOATS,
        "relevant_tokens": INTEGER,
        "irrelevant_tokens": INTEGER,
        "context_tokens": INTEGER,
    },
    keys=("control", "position"),
    every_prompt=True,
)

# Assumed numbers of tokens: in a list of points, a story without distractors, each additional sentence, and an answer.
LIST_TOKENS, STORY_TOKENS, SENTENCE_TOKENS, ANSWER_TOKENS = 70, 18, 6, 4


def _work(job: Job) -> Work:
    """Estimate the work of a job: each prompt is read once, followed by each of its candidates and by its answer."""
    task_settings = getattr(job.settings, job.task)
    if job.task == "lines":
        cells = [
            (
                len(task_settings.slopes) * len(task_settings.intercepts) * task_settings.queries_per_line,
                LIST_TOKENS,
                3 * ANSWER_TOKENS,
            )
        ]
    else:
        cells = [
            (task_settings.queries, STORY_TOKENS + SENTENCE_TOKENS * d, 10 * ANSWER_TOKENS) for d in task_settings.distractors
        ]
    conditions = task_settings.conditions()
    tokens = sum(
        queries * sum((examples + 1) * length + candidates + job.settings.new_tokens for examples, _ in conditions)
        for queries, length, candidates in cells
    )
    prompts = len(conditions) * sum(queries for queries, _, _ in cells)
    return Work(prompts, tokens, tokens * tokens / max(1, prompts), prompts)


STUDY = Study(
    package=__package__,
    help="changes of answers, representations and attention with examples, on paired prompts",
    schema=SCHEMA,
    cost=Cost(passes=1, work=_work),
    settings=Keys(
        "representation_change",
        Settings,
        "Prompts with and without examples, and computations on answers, representations and attention.",
    ),
    reads=PAIRED_PROMPTS,
    inputs="prepare",
    tensors=True,
    needs_gold=False,
    items=tuple(
        Item(
            name=name,
            title=title,
            notebook=f"representation_change/{name}",
            set="paired",
            studies=("representation_change",),
            tensors=("representation_change",) if tensors else (),
            tasks=("lines", "reading"),
            own_tasks=True,
            # The controls are ours; the paper has none.
            paper_models="" if name == "rc_controls" else "Llama-2-70B and Vicuna-13B",
        )
        for name, title, tensors in (
            (
                "rc_behaviour",
                "Error by number of examples, compared with the same number of uninformative examples",
                False,
            ),
            (
                "rc_hypotheses",
                "What the prompts have in common, and the similarity of their representations with and without examples",
                True,
            ),
            (
                "rc_rsa",
                "Agreement of the similarity of representations with what the prompts have in common, by layer",
                True,
            ),
            ("rc_probes", "Accuracy of linear probes of the representations, by layer", True),
            (
                "rc_attention_ratio",
                "Log ratio of the last token's attention to relevant and to irrelevant tokens, by layer",
                False,
            ),
            (
                "rc_correlations",
                "Correlation between the improvement of answers and the changes of representations and attention, over queries",
                True,
            ),
            ("rc_controls", "Effect of examples compared with the effect of the same number of uninformative examples", True),
        )
    ),
)
