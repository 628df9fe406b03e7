"""Computation of the study ``representation_change``: answers, representations and attention with examples in context.

The study follows Yousefi et al., "In-Context Learning in Large Language Models: A Neuroscience-inspired Analysis of
Representations" (arXiv 2310.00313). No code was published, so what the text leaves open is our choice and a setting. Prompts
are paired by their query. Each prompt is read once. The study keeps for each prompt:

* the greedy answer, and the log-probability of each candidate answer, for models that are too small to write an answer in the
  right format;
* one vector per layer and pooling: mean, maximum and last of the hidden states of the *query's own* tokens. Tokens of the
  examples are excluded, because prompts that share examples would otherwise be similar for that reason;
* the attention of the last token r in each layer, averaged over heads and over the tokens of a set,

      a_l(S) = 1 / (H |S|) sum_h sum_{j in S} att_{l,h}(r, j),      A_l = a_l(s) / a_l(t)

  with s the relevant tokens (the y that the query shows; the activity that is asked for) and t the irrelevant ones (the x of
  the query; the activities of the distractors). Only these means are kept; no attention matrix is stored, for any model
  size.

A condition is a number of examples, whether they are the control, and a number of distractors. Over the prompts of a condition,
the vectors give the cosine of each pair of prompts (:mod:`icl_lens.statistics.similarity`), its alignment with each hypothesis
(:mod:`icl_lens.studies.representation_change.hypotheses`) with a Mantel null, linear CKA, and probes
(:mod:`icl_lens.statistics.probes`). The vectors are then discarded. The tensors contain the cosines and the results computed
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from icl_lens.attention.record import record_rows
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import generation
from icl_lens.models.batching import Batch, batches, fitting
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_output
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts import chat
from icl_lens.prompts.positions import TokenizedPrompt, encode, tokens_of
from icl_lens.statistics import probes, similarity
from icl_lens.studies.inputs import Given, Inputs
from icl_lens.studies.representation_change import hypotheses
from icl_lens.studies.representation_change.settings import COMPONENTS, SETS, Settings, condition_name, probed


def prepare(given: Given) -> Inputs:
    """Select the prompts of the queries that fit the context in each condition, with each answer, and their rows of the table.

    Prompts are written as chats if requested. If one prompt of a query does not fit, the query is left out of all conditions,
    because all comparisons are paired.

    Raises:
        InputError: No query fits in each condition, or demonstrations are to be turns of a chat.
    """
    model = given.model
    if given.as_chat == "turns":
        raise InputError(
            f"model {model.name}: the examples of representation_change have no label words, so they cannot be turns of a "
            "chat; set chat: true or chat: false for this model"
        )
    table = _as_chats(given.table, model.tokenizer) if given.as_chat else given.table
    prompts = encode(table, model.tokenizer, given.bos)
    candidates = generation.candidate_ids(prompts, table["candidates"].tolist(), model.tokenizer)
    longest = max((len(ids) for each in candidates for ids in each), default=1)
    answer = max(longest, given.settings.new_tokens)
    fits = table["prompt_id"].isin([p.prompt_id for p in fitting(model, prompts, answer)])
    kept = table[fits.groupby(table["query_id"]).transform("all")]
    if kept.empty:
        raise InputError(f"model {model.name}: no query fits the context in every condition; use fewer examples")
    complete = set(kept["prompt_id"])
    selected = [p for p in prompts if p.prompt_id in complete]
    return Inputs(selected, len(prompts) - len(selected), {"table": kept})


def _as_chats(table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Rewrite the prompts of a paired_prompts table as chats (:mod:`icl_lens.prompts.chat`).

    The last piece of the query opens the answer.
    """
    spans = ["relevant_spans", "irrelevant_spans", "context_spans"]
    counts = table[spans].map(len).to_numpy().cumsum(1)  # (N, 3)
    with_spans = table.assign(
        label_spans=[[*row[0], *row[1], *row[2]] for row in table[spans].to_numpy()],
        text_spans=[[]] * len(table),
        prefix_spans=[[span] for span in table["ending_span"]],
    )
    wrapped = chat.wrap(with_spans, tokenizer)
    span_groups = [
        np.split(np.array(row, dtype=object), ends[:2]) for row, ends in zip(wrapped["label_spans"], counts, strict=True)
    ]
    return wrapped.assign(
        **{name: [[[int(e) for e in span] for span in group[i]] for group in span_groups] for i, name in enumerate(spans)},
        query_span=[
            # The query ends where the prompt ends. The text between the query and the piece that opens the answer belongs to
            # the chat template.
            [span[0], len(text)]
            for span, text in zip(wrapped["query_span"], wrapped["text"], strict=True)
        ],
    )[[*table.columns, "content_spans"]]


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    table: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Read each prompt once, condition by condition.

    Args:
        model, batch_tokens, progress, settings: Common to all studies, see :mod:`icl_lens.studies.study`.
        prompts: The prompts, in any order.
        table: Rows of a paired_prompts table for the prompts. Each query appears in each condition of its number of
            distractors.

    Raises:
        InputError: A condition lacks a query, the tokens of a query do not match its span, or the family is not supported.

    Returns:
        A table and tensors by name.

        The table has one row per prompt, with the columns of
        :data:`~icl_lens.studies.representation_change.representation_change.study.SCHEMA`.

        The names of the tensors for d distractors begin with ``d{d}.``. There are C conditions, layers 0 (embeddings) to L, Q
        poolings, H hypotheses, T probed components, P queries in the order of query_id and M pairs of queries: ``cosine`` (C, L
        + 1, Q, M); ``spearman``, ``pearson``, ``mantel_p``, ``null_high`` (95th percentile of the null), ``partial`` and
        ``cka`` (C, L + 1, Q, H); ``probe`` (C, L + 1, T, P), 1 where the probe of the first pooling is correct; and
        ``probe_commonest`` (T,), the majority baseline.
    """
    settings = settings or Settings()
    require_supported(model.network)
    by_id = {p.prompt_id: p for p in prompts}
    rows, tensors = [], {}
    for distractors, part in table.groupby("distractors", sort=True):
        conditions = list(part.groupby(["examples", "control"], sort=True))
        queries = sorted(set(part["query_id"]))
        results: list[dict[str, Any]] = []
        for (examples, control), condition_rows in conditions:
            ordered = condition_rows.sort_values("query_id")
            if ordered["query_id"].tolist() != queries:
                name = condition_name(examples, control)
                raise InputError(
                    f"condition {name!r} with {distractors} distractors lacks a query of another condition; create the "
                    "prompts table again"
                )
            condition_prompts = [by_id[i] for i in ordered["prompt_id"]]
            answers, vectors = _run_condition(model, condition_prompts, ordered, batch_tokens, settings.new_tokens, progress)
            rows.append(ordered.assign(**answers))
            results.append(
                {
                    "cosine": similarity.cosines(vectors.transpose(0, 1).numpy()),
                    "probe": _test_probes(ordered, vectors[0].numpy(), settings),
                }
            )
        stacked = {name: np.stack([each[name] for each in results]) for name in results[0]}
        comparisons = _compare(conditions, stacked["cosine"], by_id, settings)
        majority = _majority_baselines(conditions[0][1].sort_values("query_id"))
        for name, tensor in {**stacked, **comparisons, "probe_commonest": majority}.items():
            tensors[f"d{distractors}.{name}"] = tensor if tensor.dtype == np.uint8 else tensor.astype(np.float32)
    kept = pd.concat(rows, ignore_index=True).drop(
        columns=["task", "set", "seed", "text", "query_span", "ending_span", "group", *(f"{name}_spans" for name in SETS)]
    )
    return kept.sort_values("prompt_id", ignore_index=True), tensors


def _run_condition(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    rows: pd.DataFrame,
    batch_tokens: int,
    new_tokens: int,
    progress: Callable[[int], object],
) -> tuple[dict[str, list], Tensor]:
    """Read the prompts of one condition.

    Returns:
        Columns of the table, and vectors of shape (Q, L + 1, P, W) on the CPU.
    """
    spans = {name: rows[f"{name}_spans"].tolist() for name in SETS}
    sets = [[tokens_of(p, spans[name][i]) for name in SETS] for i, p in enumerate(prompts)]
    query_tokens = [tokens_of(p, [span]) for p, span in zip(prompts, rows["query_span"], strict=True)]
    for prompt, tokens in zip(prompts, query_tokens, strict=True):
        if not len(tokens) or tokens[-1] != prompt.last:
            raise InputError(
                f"prompt {prompt.prompt_id}: the last token of the prompt is not the last token of its query_span; correct "
                "the query_span"
            )
    candidates = generation.candidate_ids(prompts, rows["candidates"].tolist(), model.tokenizer)
    columns: dict[str, list] = {name: [None] * len(prompts) for name in ("answer", "candidate_log_probs", *SETS)}
    columns |= {f"{name}_tokens": [len(each[i]) for each in sets] for i, name in enumerate(SETS)}
    vectors: Tensor | None = None
    longest = max((len(ids) for each in candidates for ids in each), default=1)
    for batch in batches(model, prompts, batch_tokens, kept="states", positions=longest):
        logits, cache, states, attention = _forward(model, batch, sets)
        pooled = pool(states, batch, query_tokens)  # (Q, L + 1, B, W)
        if vectors is None:
            vectors = torch.empty(*pooled.shape[:2], len(prompts), pooled.shape[3], dtype=pooled.dtype)
        vectors[:, :, batch.index] = pooled
        continuation = generation.Continuations(model, batch, cache, logits)
        log_probs: list[list[float]] = [[] for _ in batch.index]
        for number in range(max(len(candidates[i]) for i in batch.index)):
            # A prompt has fewer candidates if two of them are the same number. Its last candidate is then repeated.
            log_likelihoods = continuation.log_likelihood(
                [candidates[i][min(number, len(candidates[i]) - 1)] for i in batch.index]
            )
            for row, (i, log_prob) in enumerate(zip(batch.index, log_likelihoods.tolist(), strict=True)):
                if number < len(candidates[i]):
                    log_probs[row].append(log_prob)
        answers = continuation.greedy(new_tokens).cpu().numpy()  # (B, N)
        for row, i in enumerate(batch.index):
            columns["answer"][i] = generation.decode_answer(answers[row], model.tokenizer)
            columns["candidate_log_probs"][i] = log_probs[row]
            for set_index, name in enumerate(SETS):
                columns[name][i] = attention[row, set_index].tolist()
        progress(len(batch.index))
    return columns, vectors


def _forward(
    model: LanguageModel, batch: Batch, sets: Sequence[Sequence[np.ndarray]]
) -> tuple[Tensor, DynamicCache, tuple[Tensor, ...], Tensor]:
    """Run one forward pass.

    Returns:
        The logits at the last tokens (B, V), the KV cache, all hidden states (B, T, W), and a_l of each set (B, S, L).
    """
    cache = DynamicCache()
    with record_rows(model.network, batch.last) as attention:
        logits, output = last_output(model, batch, use_cache=True, past_key_values=cache, output_hidden_states=True)
    weights = torch.zeros(len(batch.index), len(SETS), batch.mask.shape[1])  # (B, S, K)
    for row, i in enumerate(batch.index):
        for set_index, tokens in enumerate(sets[i]):
            weights[row, set_index, tokens] = 1 / max(1, len(tokens))
    weights = weights.to(model.device)
    means = [
        torch.einsum("bk,bsk->bs", at_least_float32(attention[layer]).mean(1), weights) for layer in sorted(attention)
    ]  # L of (B, S)
    return logits, cache, output.hidden_states, torch.stack(means, -1).cpu()


def pool(states: Sequence[Tensor], batch: Batch, query: Sequence[np.ndarray]) -> Tensor:
    """Compute the mean, maximum and last of the hidden states of each prompt's query tokens.

    Args:
        states: Hidden states of each layer, shape (B, T, W).
        batch: Batch of the prompts.
        query: Positions of the query's tokens, for all prompts.

    Returns:
        Pooled states on the CPU, at least float32, shape (3, L + 1, B, W), in the order of
        :data:`~icl_lens.studies.representation_change.settings.POOLINGS`.
    """
    mask = torch.zeros(batch.ids.shape, dtype=torch.bool)  # (B, T)
    for row, i in enumerate(batch.index):
        mask[row, query[i]] = True
    mask = mask.to(batch.ids.device)[..., None]  # (B, T, 1)
    rows = torch.arange(len(batch.index), device=batch.ids.device)
    pooled = []
    for layer in states:
        layer = at_least_float32(layer)  # (B, T, W)
        mean = (layer * mask).sum(1) / mask.sum(1)  # (B, W)
        maximum = layer.masked_fill(~mask, -torch.inf).amax(1)  # (B, W)
        pooled.append(torch.stack([mean, maximum, layer[rows, batch.last]]).cpu())  # (3, B, W)
    return torch.stack(pooled, 1)


def _compare(
    conditions: Sequence[tuple[Any, pd.DataFrame]],
    cosine: np.ndarray,
    prompts: dict[int, TokenizedPrompt],
    settings: Settings,
) -> dict[str, np.ndarray]:
    """Compare the similarities of each condition, shape (C, L + 1, Q, M), with the hypotheses.

    Returns:
        Name -> statistic, shape (C, L + 1, Q, H).
    """
    first = conditions[0][1].sort_values("query_id")
    shape, flat = cosine.shape[:3], cosine.reshape(-1, cosine.shape[-1])  # (S, M)
    ranks, values = similarity.unit_ranks(flat), similarity.unit_values(flat)  # (S, M) each
    # The query's own tokens, which are the same in each condition.
    query_tokens = [
        {token for token, start in zip(p.ids.tolist(), p.spans[:, 0].tolist(), strict=True) if start >= span[0]}
        for p, span in ((prompts[i], span) for i, span in zip(first["prompt_id"], first["query_span"], strict=True))
    ]
    covariates = [similarity.condensed(hypotheses.jaccard(query_tokens))]
    if first["task"].iloc[0] == "lines":
        covariates.append(similarity.condensed(hypotheses.distance(first["place"].to_numpy())))
    kernels = similarity.square(cosine)  # (C, L + 1, Q, P, P); NaN where all prompts have the same vector
    results: dict[str, list[np.ndarray]] = {}
    for hypothesis in hypotheses.matrices(first).values():
        pairs = similarity.condensed(hypothesis)  # (M,)
        spearman = ranks @ similarity.unit_ranks(pairs)  # (S,)
        null = similarity.mantel(ranks, similarity.ranked(hypothesis), settings.permutations, settings.seed)  # (R, S)
        statistics = {
            "spearman": spearman,
            "pearson": values @ similarity.unit_values(pairs),
            "mantel_p": similarity.p_of(spearman, null),
            "null_high": np.quantile(null, 0.95, axis=0),
            "partial": similarity.partial(flat, pairs, covariates),
        }
        for name, value in statistics.items():
            results.setdefault(name, []).append(value.reshape(shape))
        # A negative distance is not a kernel: its diagonal is 0, which is its largest value.
        results.setdefault("cka", []).append(similarity.cka(kernels, hypothesis))
    return {name: np.stack(values, -1) for name, values in results.items()}


def _test_probes(rows: pd.DataFrame, vectors: np.ndarray, settings: Settings) -> np.ndarray:
    """Return where the probes of one pooling are correct, shape (L + 1, T, P), from vectors of shape (L + 1, P, W)."""
    split = {"groups": rows["group"].tolist(), "folds": settings.folds, "seed": settings.seed}
    targets = _probe_targets(rows).values()
    correct = [probes.predicted(vectors, classes, penalty=settings.penalty, **split) == classes for classes in targets]
    return np.stack(correct, 1).astype(np.uint8)


def _probe_targets(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the classes of each probed component, shape (P,) each."""
    task = rows["task"].iloc[0]
    columns = {name: [row[i] for row in rows["components"]] for i, name in enumerate(COMPONENTS[task])}
    columns["position"] = rows["position"].tolist()
    names = probed(task, int(rows["distractors"].iloc[0]))
    return {name: np.unique(columns[name], return_inverse=True)[1] for name in names}


def _majority_baselines(rows: pd.DataFrame) -> np.ndarray:
    """Compute the majority baseline of each probed component, shape (T,)."""
    return np.array([np.bincount(classes).max() / len(classes) for classes in _probe_targets(rows).values()])
