"""Isolation: does the prediction survive when label words are cut off from the text before them?

*Label Words are Anchors*, section 2.2 and appendix D. In the first or the last k layers, every head, the edges from a position
p to all earlier ones are blocked, for each of D positions p: the label words, or others in their place
(:mod:`icl_lens.conditions`). With A the attention weights,

    before the softmax (released code, default)     A(p, j) = 0 for j < p, and A(p, p) = 1
    after the softmax (the paper's sentence)        A(p, j) = 0 for j < p, and A(p, p) as it was; the row is not renormalised

The run so changed is compared with the plain run of the same prompt, made in the same job: is the predicted label the same,
and how far do the sets of the 5 (paper) and 10 (released notebook) likeliest tokens overlap?

Blocking before the softmax is a mask on the fused kernel. Prompts that share their demonstrations compute them once for each
condition (and, for random positions, once for each set of them that falls among the demonstrations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens import attention, prefixes
from icl_lens.conditions import isolated, random_positions
from icl_lens.errors import InputError
from icl_lens.isolation_plan import WORDS, Condition, Scope, Settings, Target, conditions
from icl_lens.loyalty import jaccard
from icl_lens.models import Batch, LanguageModel, batches, last_logits, sharing
from icl_lens.positions import TokenizedPrompt
from icl_lens.progress import Runs


@torch.inference_mode()
def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Predictions for every prompt under every condition, against the prompt's plain run.

    Args:
        model: Any supported model.
        prompts: They fit the model's context.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told how many more prompts are done, all conditions counted.
        settings: See :class:`Settings`.

    Raises:
        InputError: A prompt has no demonstration or lacks what is to be isolated, more layers are asked for than there are, or
            the model's family is not supported.

    Returns:
        One row a prompt and condition, in that order: prompt_id, target, side, layers (k), draw (0 but for random),
        prediction (class index), label_agrees, word_jaccard_5, word_jaccard_10.
    """
    settings = settings or Settings()
    planned = conditions(settings, model.layers)
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; isolation needs label words")
    attention.require_supported(model.network)
    sources = sorted({(c.target, c.draw) for c in planned})
    positions = {source: _positions(model, prompts, *source, settings.random_scope) for source in sources}
    predictions = np.empty((len(planned), len(prompts)), dtype=np.int64)  # (C, N)
    overlaps = {k: np.empty((len(planned), len(prompts))) for k in WORDS}  # (C, N) each
    report = Runs(progress, len(planned) + 1)
    plain = np.empty(len(prompts), dtype=np.int64)  # (N,)
    for group in sharing(model, prompts):
        top: dict[int, np.ndarray] = {}
        for batch, logits in runs(model, prompts, group, None, (), settings.blocking, batch_tokens):
            plain[batch.index] = _best(batch, logits)
            top |= dict(zip(batch.index, _top(logits), strict=True))
            report(len(batch.index))
        for number, condition in enumerate(planned):
            k = condition.layers
            layers = range(k) if condition.side == "first" else range(model.layers - k, model.layers)
            cut = positions[condition.target, condition.draw]
            for batch, logits in runs(model, prompts, group, cut, layers, settings.blocking, batch_tokens):
                predictions[number, batch.index] = _best(batch, logits)
                after, before = _top(logits), np.stack([top[i] for i in batch.index])  # (B, 10) each
                for size, overlap in overlaps.items():
                    overlap[number, batch.index] = jaccard(after[:, :size], before[:, :size])
                report(len(batch.index))
    columns = {name: np.tile([getattr(c, name) for c in planned], len(prompts)) for name in Condition._fields}
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([p.prompt_id for p in prompts], len(planned)),
            **{name: columns[name] for name in ("target", "side", "layers", "draw")},
            "prediction": predictions.T.ravel(),
            "label_agrees": (predictions == plain).T.ravel(),
            **{f"word_jaccard_{size}": overlap.T.ravel() for size, overlap in overlaps.items()},
        }
    )


def _positions(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], target: Target, draw: int, scope: Scope
) -> list[np.ndarray]:
    """What is isolated in each prompt, shape (D,) each."""
    if target == "random":
        return [random_positions(p, scope, draw, model.tokenizer.bos_token_id) for p in prompts]
    return [isolated(p, target, lambda token: model.tokenizer.decode([token])) for p in prompts]


def runs(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    group: prefixes.Group,
    positions: Sequence[np.ndarray] | None,
    layers: Sequence[int],
    blocking: str,
    batch_tokens: int,
) -> Iterator[tuple[Batch, Tensor]]:
    """Run a group's prompts with some positions of each isolated in some layers, a beginning that several share read once.

    Args:
        model: Any supported model.
        prompts: All of them.
        group: Which of them run, and what they share.
        positions: What is isolated in each of the prompts; None for the plain run.
        layers: In which layers.
        blocking: See :class:`Settings`.
        batch_tokens: See :func:`icl_lens.models.batches`.

    Yields:
        A batch and its next-token logits at each prompt's last position, shape (B, V).
    """
    shared = group.ids
    if positions is not None and len(shared) and _differ_behind_anchors(prompts, group, positions):
        # What is isolated behind the last anchor is each prompt's own affair: there the common beginning ends.
        shared = shared[: prompts[group.index[0]].anchors[-1] + 1]
    # Prompts whose isolated positions in the beginning are the same share its keys and values.
    alike: dict[tuple[int, ...], list[int]] = {}
    for place in group.index:
        early = () if positions is None else tuple(p for p in positions[place].tolist() if p < len(shared))
        alike.setdefault(early, []).append(place)
    for early, members in alike.items():
        with isolate(model.network, [early], layers, blocking, 0, len(shared), len(shared)):
            prefix = prefixes.read(model.network, shared)
        for batch in batches(model, prompts, batch_tokens, members, prefix):
            cut = [() if positions is None else positions[i].tolist() for i in batch.index]
            with isolate(model.network, cut, layers, blocking, batch.start, batch.ids.shape[1], batch.mask.shape[1]):
                logits = last_logits(model, batch)  # (B, V)
            yield batch, logits


def _best(batch: Batch, logits: Tensor) -> np.ndarray:
    """Predicted classes, shape (B,)."""
    return logits.gather(1, batch.label_ids).argmax(-1).cpu().numpy()


def _top(logits: Tensor) -> np.ndarray:
    """The likeliest tokens, likeliest first, shape (B, 10)."""
    return logits.topk(min(max(WORDS), logits.shape[-1]), dim=-1).indices.cpu().numpy()


def _differ_behind_anchors(prompts: Sequence[TokenizedPrompt], group: prefixes.Group, positions: Sequence[np.ndarray]) -> bool:
    """Whether a group's prompts do not isolate the same positions between their last anchor and the end of what they share."""
    start = prompts[group.index[0]].anchors[-1]
    inside = {tuple(p for p in positions[i].tolist() if start < p < len(group.ids)) for i in group.index}
    return len(inside) > 1


def isolate(
    network: PreTrainedModel,
    positions: Sequence[Sequence[int]],
    layers: Sequence[int],
    blocking: str,
    start: int,
    queries: int,
    keys: int,
) -> AbstractContextManager:
    """The context in which positions are cut off from all earlier ones.

    Args:
        network: The model.
        positions: What is isolated in each row; those that no query stands at are left aside. B rows.
        layers: In which layers.
        blocking: See :class:`Settings`.
        start: Position of the first query.
        queries: Number of queries, Q.
        keys: Number of keys, K.
    """
    here = [(row, p) for row, cut in enumerate(positions) for p in cut if start <= p < start + queries]
    if not here:
        return nullcontext()
    edges = torch.zeros(len(positions), queries, keys, dtype=torch.bool)  # (B, Q, K)
    for row, p in here:
        edges[row, p - start, :p] = True
    edges = edges.to(network.device)
    if blocking == "before_softmax":
        return attention.block(network, dict.fromkeys(layers, edges))
    factors: Mapping[int, Tensor] = dict.fromkeys(layers, (~edges[:, None]).to(network.dtype))  # (B, 1, Q, K)
    return attention.scale(network, factors)
