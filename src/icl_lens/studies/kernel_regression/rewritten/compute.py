"""In-context learning on rewritten test texts: rare words, complex syntax or typos.

*In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1.
:mod:`icl_lens.studies.kernel_regression.rewritten.rewriting` defines the rules, and :mod:`icl_lens.models.answers` computes the
predictions. All rewritings use the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from icl_lens.models.answers import predict
from icl_lens.models.language_model import LanguageModel
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.inputs import Given, Inputs, of_tables
from icl_lens.studies.kernel_regression.rewritten.rewriting import rewrite, share_replaced
from icl_lens.studies.kernel_regression.rewritten.study import REWRITINGS, Settings


def prepare(given: Given) -> Inputs:
    """Return the first prompts of each seed that fit the model's context in every rewriting.

    Raises:
        InputError: No prompt fits, or the settings request more clauses than are available.
    """
    return of_tables(given, rewritten_tables(given.table, given.settings))


def rewritten_tables(table: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """Build the prompts tables from the first prompts of each seed, unchanged and in each rewriting."""
    first = table.groupby("seed", sort=False).head(settings.queries)
    return {"prompts": first, **{rewriting: rewrite(first, rewriting, settings) for rewriting in REWRITINGS[1:]}}


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    rare_words: Sequence[TokenizedPrompt],
    complex_syntax: Sequence[TokenizedPrompt],
    typos: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute the prediction for each prompt in each rewriting.

    Args:
        model, batch_tokens, progress: Standard arguments of a study, see :mod:`icl_lens.studies.study`.
        prompts: The unchanged prompts; they fit the model's context.
        rare_words, complex_syntax, typos: The same prompts, rewritten.
        settings: Settings with which the prompts were rewritten; not used here.

    Returns:
        One row per rewriting and prompt, in that order: prompt_id, rewriting, gold and prediction (class indices),
        class_log_probs (C floats), query_tokens (number of tokens in the query's text), replaced (the share of words in the
        original text that have a rare synonym).
    """
    prompts_by_rewriting = dict(zip(REWRITINGS, (prompts, rare_words, complex_syntax, typos), strict=True))
    report = Runs(progress, len(prompts_by_rewriting))
    replaced = [share_replaced(p.text[slice(*p.query_span)]) for p in prompts]
    tables = []
    for rewriting, rewritten_prompts in prompts_by_rewriting.items():
        rows = predict(model, rewritten_prompts, batch_tokens, report)
        tokens = [
            int(((p.spans[:, 1] > p.query_span[0]) & (p.spans[:, 1] <= p.query_span[1])).sum()) for p in rewritten_prompts
        ]
        tables.append(rows.assign(rewriting=rewriting, query_tokens=tokens, replaced=replaced))
    return pd.concat(tables, ignore_index=True)
