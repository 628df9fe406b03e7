"""How answers, representations and attention change with examples in context, on prompts that are paired by their query.

Yousefi et al., "In-Context Learning in Large Language Models: A Neuroscience-inspired Analysis of Representations" (arXiv
2310.00313); no code was published, so what the text leaves open is our choice and a setting. Each prompt is read once. Of it
are kept

* the greedy answer, and the log-probability of each candidate answer, for models too small to write the right form;
* one vector a layer and pooling: mean, maximum and last of the hidden states of the *query's own* tokens. Those of the examples
  are left out, for prompts that share examples would be alike by them;
* the attention of the last token r in each layer, averaged over heads and over the tokens of a set,

      a_l(S) = 1 / (H |S|) sum_h sum_{j in S} att_{l,h}(r, j),      A_l = a_l(s) / a_l(t)

  with s the tokens that matter (the y that the query shows; the activity that is asked for) and t those that do not (its x; the
  distractors' activities). Only these means leave a batch: no attention is stored, of a model of any size.

Over the prompts of a condition (a number of examples, their control, a number of distractors) the vectors give the cosine of
every two prompts (:mod:`icl_lens.statistics.similarity`), its alignment with each hypothesis
(:mod:`icl_lens.studies.representation_change.hypotheses`) with a Mantel null, linear CKA, and probes
(:mod:`icl_lens.statistics.probes`). They are then let go: tensors beside the table hold the cosines and what was made of them.
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
    """The prompts whose query fits the context in every condition, and their rows of the table, written as chats if need be.

    A query of which one prompt does not fit is left out of every condition, because all comparisons are paired.

    Raises:
        InputError: No query fits in every condition.
    """
    model = given.model
    table = _as_chats(given.table, model.tokenizer) if given.as_chat else given.table
    prompts = encode(table, model.tokenizer, given.bos)
    fits = table["prompt_id"].isin([p.prompt_id for p in fitting(model, prompts)])
    kept = table[fits.groupby(table["query_id"]).transform("all")]
    if kept.empty:
        raise InputError(f"model {model.name}: no query fits its context in every condition; ask for fewer examples")
    whole = set(kept["prompt_id"])
    found = [p for p in prompts if p.prompt_id in whole]
    return Inputs(found, len(prompts) - len(found), {"table": kept})


def _as_chats(table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """A paired_prompts table whose prompts are chats (:mod:`icl_lens.prompts.chat`).

    The last piece of the query opens the answer.
    """
    spans = ["relevant_spans", "irrelevant_spans", "context_spans"]
    counts = table[spans].map(len).to_numpy().cumsum(1)  # (N, 3)
    plain = table.assign(
        label_spans=[[*row[0], *row[1], *row[2]] for row in table[spans].to_numpy()],
        text_spans=[[]] * len(table),
        prefix_spans=[[span] for span in table["ending_span"]],
    )
    moved = chat.wrap(plain, tokenizer)
    parts = [np.split(np.array(row, dtype=object), ends[:2]) for row, ends in zip(moved["label_spans"], counts, strict=True)]
    return moved.assign(
        **{name: [[[int(e) for e in span] for span in part[i]] for part in parts] for i, name in enumerate(spans)},
        query_span=[
            # The query ends where the prompt does: what stands between it and the piece that opens the answer is the
            # template's.
            [span[0], len(text)]
            for span, text in zip(moved["query_span"], moved["text"], strict=True)
        ],
    )[list(table.columns)]


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    table: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Reads every prompt once, condition by condition.

    Args:
        model, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        prompts: The prompts, in any order.
        table: Their rows of a paired_prompts table; every query in every condition of its number of distractors.

    Raises:
        InputError: A condition lacks a query, a query's tokens are not where its span is, or the family is not supported.

    Returns:
        One row per prompt, with the columns of
        :data:`~icl_lens.studies.representation_change.representation_change.study.SCHEMA`. And tensors by name, those of a
        number of distractors d under ``d{d}.``, with C conditions, layers 0 (embeddings) to L, Q poolings, H hypotheses, T
        probed components, P queries in the order of query_id and M pairs of them: ``cosine`` (C, L + 1, Q, M); ``spearman``,
        ``pearson``, ``mantel_p``, ``null_high`` (the null's 95th percentile), ``partial`` and ``cka`` (C, L + 1, Q, H);
        ``probe`` (C, L + 1, T, P), 1 where the first pooling's probe is right, and ``probe_commonest`` (T,), always the
        commonest class.
    """
    settings = settings or Settings()
    require_supported(model.network)
    by_id = {p.prompt_id: p for p in prompts}
    rows, tensors = [], {}
    for distractors, part in table.groupby("distractors", sort=True):
        conditions = list(part.groupby(["examples", "control"], sort=True))
        queries = sorted(set(part["query_id"]))
        found: list[dict[str, Any]] = []
        for (examples, control), of_condition in conditions:
            ordered = of_condition.sort_values("query_id")
            if ordered["query_id"].tolist() != queries:
                name = condition_name(examples, control)
                raise InputError(f"condition {name!r} with {distractors} distractors lacks a query that another has")
            read = [by_id[i] for i in ordered["prompt_id"]]
            answers, vectors = _read(model, read, ordered, batch_tokens, settings.new_tokens, progress)
            rows.append(ordered.assign(**answers))
            found.append(
                {
                    "cosine": similarity.cosines(vectors.transpose(0, 1).numpy()),
                    "probe": _probe(ordered, vectors[0].numpy(), settings),
                }
            )
        stacked = {name: np.stack([each[name] for each in found]) for name in found[0]}
        compared = _compare(conditions, stacked["cosine"], by_id, settings)
        commonest = _commonest(conditions[0][1].sort_values("query_id"))
        for name, tensor in {**stacked, **compared, "probe_commonest": commonest}.items():
            tensors[f"d{distractors}.{name}"] = tensor if tensor.dtype == np.uint8 else tensor.astype(np.float32)
    kept = pd.concat(rows, ignore_index=True).drop(
        columns=["task", "set", "seed", "text", "query_span", "ending_span", "group", *(f"{name}_spans" for name in SETS)]
    )
    return kept.sort_values("prompt_id", ignore_index=True), tensors


def _read(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    rows: pd.DataFrame,
    batch_tokens: int,
    new_tokens: int,
    progress: Callable[[int], object],
) -> tuple[dict[str, list], Tensor]:
    """The prompts of one condition: columns of the table, and vectors of shape (Q, L + 1, P, W) on the processor."""
    spans = {name: rows[f"{name}_spans"].tolist() for name in SETS}
    sets = [[tokens_of(p, spans[name][i]) for name in SETS] for i, p in enumerate(prompts)]
    query = [tokens_of(p, [span]) for p, span in zip(prompts, rows["query_span"], strict=True)]
    for prompt, tokens in zip(prompts, query, strict=True):
        if not len(tokens) or tokens[-1] != prompt.last:
            raise InputError(f"prompt {prompt.prompt_id}: its last token is not the last of its query_span")
    candidates = generation.candidate_ids(prompts, rows["candidates"].tolist(), model.tokenizer)
    columns: dict[str, list] = {name: [None] * len(prompts) for name in ("answer", "candidate_log_probs", *SETS)}
    columns |= {f"{name}_tokens": [len(each[i]) for each in sets] for i, name in enumerate(SETS)}
    vectors: Tensor | None = None
    longest = max((len(ids) for each in candidates for ids in each), default=1)
    for batch in batches(model, prompts, batch_tokens, kept="states", positions=longest):
        logits, cache, states, attended = _forward(model, batch, sets)
        pooled = pool(states, batch, query)  # (Q, L + 1, B, W)
        if vectors is None:
            vectors = torch.empty(*pooled.shape[:2], len(prompts), pooled.shape[3], dtype=pooled.dtype)
        vectors[:, :, batch.index] = pooled
        behind = generation.Answering(model, batch, cache, logits)
        scores: list[list[float]] = [[] for _ in batch.index]
        for place in range(max(len(candidates[i]) for i in batch.index)):
            # A prompt with fewer candidates (two were the same number) reads its last again.
            read = behind.log_likelihood([candidates[i][min(place, len(candidates[i]) - 1)] for i in batch.index])
            for row, (i, score) in enumerate(zip(batch.index, read.tolist(), strict=True)):
                if place < len(candidates[i]):
                    scores[row].append(score)
        answers = behind.greedy(new_tokens).cpu().numpy()  # (B, N)
        for row, i in enumerate(batch.index):
            columns["answer"][i] = generation.written(answers[row], model.tokenizer)
            columns["candidate_log_probs"][i] = scores[row]
            for number, name in enumerate(SETS):
                columns[name][i] = attended[row, number].tolist()
        progress(len(batch.index))
    return columns, vectors


def _forward(
    model: LanguageModel, batch: Batch, sets: Sequence[Sequence[np.ndarray]]
) -> tuple[Tensor, DynamicCache, tuple[Tensor, ...], Tensor]:
    """One pass: logits at the last tokens (B, V), the cache, all hidden states (B, T, W), and a_l of each set (B, S, L)."""
    cache = DynamicCache()
    with record_rows(model.network, batch.last) as attention:
        logits, output = last_output(model, batch, use_cache=True, past_key_values=cache, output_hidden_states=True)
    inside = torch.zeros(len(batch.index), len(SETS), batch.mask.shape[1])  # (B, S, K)
    for row, i in enumerate(batch.index):
        for number, tokens in enumerate(sets[i]):
            inside[row, number, tokens] = 1 / max(1, len(tokens))
    inside = inside.to(model.device)
    means = [
        torch.einsum("bk,bsk->bs", at_least_float32(attention[layer]).mean(1), inside) for layer in sorted(attention)
    ]  # L of (B, S)
    return logits, cache, output.hidden_states, torch.stack(means, -1).cpu()


def pool(states: Sequence[Tensor], batch: Batch, query: Sequence[np.ndarray]) -> Tensor:
    """Mean, maximum and last of the hidden states of each prompt's query tokens.

    Args:
        states: Of each layer, shape (B, T, W).
        batch: Its prompts.
        query: The positions of the query's tokens, of all prompts.

    Returns:
        Shape (3, L + 1, B, W), in the order of :data:`~icl_lens.studies.representation_change.settings.POOLINGS`, in float32 at
        least, on the processor.
    """
    inside = torch.zeros(batch.ids.shape, dtype=torch.bool)  # (B, T)
    for row, i in enumerate(batch.index):
        inside[row, query[i]] = True
    inside = inside.to(batch.ids.device)[..., None]  # (B, T, 1)
    rows = torch.arange(len(batch.index), device=batch.ids.device)
    pooled = []
    for layer in states:
        layer = at_least_float32(layer)  # (B, T, W)
        mean = (layer * inside).sum(1) / inside.sum(1)  # (B, W)
        highest = layer.masked_fill(~inside, -torch.inf).amax(1)  # (B, W)
        pooled.append(torch.stack([mean, highest, layer[rows, batch.last]]).cpu())  # (3, B, W)
    return torch.stack(pooled, 1)


def _compare(
    conditions: Sequence[tuple[Any, pd.DataFrame]],
    cosine: np.ndarray,
    prompts: dict[int, TokenizedPrompt],
    settings: Settings,
) -> dict[str, np.ndarray]:
    """What the similarities of each condition (C, L + 1, Q, M) have to do with the hypotheses; shapes (C, L + 1, Q, H)."""
    first = conditions[0][1].sort_values("query_id")
    shape, flat = cosine.shape[:3], cosine.reshape(-1, cosine.shape[-1])  # (S, M)
    ranks, values = similarity.unit_ranks(flat), similarity.unit_values(flat)  # (S, M) each
    # The query's own words, the same in every condition.
    words = [
        {token for token, start in zip(p.ids.tolist(), p.spans[:, 0].tolist(), strict=True) if start >= span[0]}
        for p, span in ((prompts[i], span) for i, span in zip(first["prompt_id"], first["query_span"], strict=True))
    ]
    given = [similarity.condensed(hypotheses.overlap(words))]
    if first["task"].iloc[0] == "lines":
        given.append(similarity.condensed(hypotheses.distance(first["place"].to_numpy())))
    kernels = similarity.square(np.nan_to_num(cosine))  # (C, L + 1, Q, P, P)
    found: dict[str, list[np.ndarray]] = {}
    for hypothesis in hypotheses.matrices(first).values():
        pairs = similarity.condensed(hypothesis)  # (M,)
        spearman = ranks @ similarity.unit_ranks(pairs)  # (S,)
        null = similarity.mantel(ranks, similarity.ranked(hypothesis), settings.permutations, settings.seed)  # (R, S)
        each = {
            "spearman": spearman,
            "pearson": values @ similarity.unit_values(pairs),
            "mantel_p": similarity.p_of(spearman, null),
            "null_high": np.quantile(null, 0.95, axis=0),
            "partial": similarity.partial(flat, pairs, given),
        }
        for name, value in each.items():
            found.setdefault(name, []).append(value.reshape(shape))
        # A distance is no kernel: its own diagonal, 0, is the largest value.
        found.setdefault("cka", []).append(similarity.cka(kernels, hypothesis))
    return {name: np.stack(values, -1) for name, values in found.items()}


def _probe(rows: pd.DataFrame, vectors: np.ndarray, settings: Settings) -> np.ndarray:
    """Where probes of one pooling are right, shape (L + 1, T, P); vectors (L + 1, P, W)."""
    folds = probes.grouped_folds(rows["group"].tolist(), settings.folds, settings.seed)
    right = [probes.predicted(vectors, classes, folds, settings.penalty) == classes for classes in _probed(rows).values()]
    return np.stack(right, 1).astype(np.uint8)


def _probed(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The classes of each probed component, shape (P,) each."""
    task = rows["task"].iloc[0]
    columns = {name: [row[i] for row in rows["components"]] for i, name in enumerate(COMPONENTS[task])}
    columns["position"] = rows["position"].tolist()
    wanted = probed(task, int(rows["distractors"].iloc[0]))
    return {name: np.unique(columns[name], return_inverse=True)[1] for name in wanted}


def _commonest(rows: pd.DataFrame) -> np.ndarray:
    """How often always the commonest class is right, shape (T,)."""
    return np.array([np.bincount(classes).max() / len(classes) for classes in _probed(rows).values()])
