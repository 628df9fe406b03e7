"""Anchor re-weighting: a trained factor on the attention of the last position to the label word of each demonstration.

*Label Words are Anchors*, section 3.1, eq. 9 and 12, and appendix H. With A the attention weights of layer l and head h, q the
last position, and p_i the label word of demonstration i,

    A_hat(q, p_i) = exp(beta^i_{l,h}) A(q, p_i)

after the softmax. The row is not renormalized (released code). beta starts at 0, which does not change the attention. Adam
trains it on further training texts with the same demonstrations, one text at a time. The loss is the cross-entropy of the gold
label over the label words. The model's weights are frozen.

With ``label_anchor: all``, the factor of demonstration i applies to each token of its label word. If classes are predicted by
whole label words (``label_score: whole``), q is the last position and each appended token of a label word, because each of them
predicts a token (:mod:`icl_lens.prompts.label_words`).

The keys and values of all positions except the last do not depend on beta. The model therefore reads all but the last token of
each training prompt once, without gradients, and each step runs only the last token, forward and backward. Training keeps the
keys and values of a seed's demonstrations, once for all prompts, and those of its training texts. It therefore fits in memory
if inference fits.

The re-weighted predictions are compared with those for the unchanged prompts, and with those for prompts with more
demonstrations per class. The additional demonstrations are the training texts, as many as fit into the context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from icl_lens.attention.scale import scale_rows
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import prefixes
from icl_lens.models.answers import class_log_probs
from icl_lens.models.batching import Batch, batches, fitting, group_by_prefix, last_tokens
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits
from icl_lens.network.placement import recompute_layers
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.protocol import with_fewer_shots
from icl_lens.studies.anchors.reweighting.study import FEW_SHOT, REWEIGHTED, VANILLA, Settings
from icl_lens.studies.inputs import Given, Inputs, of_table


@dataclass(frozen=True)
class Trained:
    """Result of the training for one seed.

    Attributes:
        beta: Trained beta, shape (L, H, D), float32.
        losses: Mean loss over the steps of each epoch, shape (E,), in nats. The loss of a step is computed before its update.
    """

    beta: np.ndarray
    losses: np.ndarray


def prepare(given: Given) -> Inputs:
    """Prepare the arguments of :func:`compute`. The baseline gets as many demonstrations as fit into the context.

    Args:
        given: The model, tables and options of the run. The additional tables are ``train``, with the training texts as
            queries, and ``baseline``, with the same queries as the prompts and more demonstrations.

    Raises:
        InputError: The tables do not match (different demonstrations, seeds or queries), or no prompt fits.
    """
    main = of_table(given)
    table, auxiliary, few_shot = given.rows_of(main.prompts), given.further["train"], given.further["baseline"]
    demonstrations = {seed: _only_set(rows) for seed, rows in table.groupby("seed")}
    for seed, indices in demonstrations.items():
        rows = auxiliary[auxiliary["seed"] == seed]
        if rows.empty:
            raise InputError(f"seed {seed}: there are no training prompts; create both tables with the same seeds")
        if _only_set(rows) != indices:
            raise InputError(
                f"seed {seed}: the training prompts and the prompts have different demonstrations; create both tables with "
                "the same config"
            )
    key_columns = ["seed", "query_index", "gold"]
    expected = table.set_index("prompt_id")[key_columns]
    if not few_shot.set_index("prompt_id")[key_columns].reindex(expected.index).equals(expected):
        raise InputError(
            "the prompts with more demonstrations and the prompts have different queries; create both tables with the same "
            "seeds and queries"
        )
    few_shot = few_shot[few_shot["prompt_id"].isin(table["prompt_id"])]
    model, prompt_shots = given.model, int(table["shots"].iloc[0])
    for shots in range(min(given.settings.shots, int(few_shot["shots"].iloc[0])), prompt_shots, -1):
        prompts = given.tokenize(with_fewer_shots(few_shot, shots))
        if model.context is None or max(len(p.ids) for p in prompts) <= model.context:
            break
    else:
        shots, prompts = prompt_shots, main.prompts
    arguments = {
        "auxiliary": fitting(model, given.tokenize(auxiliary)),
        "few_shot": prompts,
        "shots": shots,
        "prompt_shots": prompt_shots,
    }
    return Inputs(main.prompts, main.left_out, arguments)


def _only_set(rows: pd.DataFrame) -> tuple[int, ...]:
    """Return the demonstrations that all prompts of a seed share.

    Raises:
        InputError: The prompts have different demonstrations.
    """
    found = {tuple(indices) for indices in rows["demo_indices"]}
    if len(found) != 1:
        raise InputError(
            f"seed {rows['seed'].iloc[0]}: the prompts have {len(found)} different sets of demonstrations, but re-weighting "
            "learns one factor per demonstration; use a set named shared-..., in which all prompts of a seed have the same "
            "demonstrations"
        )
    return found.pop()


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    *,
    auxiliary: Sequence[TokenizedPrompt],
    few_shot: Sequence[TokenizedPrompt],
    shots: int,
    prompt_shots: int,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Train beta for each seed, and compute the predictions of three methods for each prompt.

    Args:
        model, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.
        prompts: Prompts that fit the model's context. All prompts of a seed have the same demonstrations.
        auxiliary: Training prompts of each seed, with the seed's demonstrations.
        few_shot: The prompts with more demonstrations. Prompts with other ids are ignored.
        shots: Number of demonstrations per class in ``few_shot``.
        prompt_shots: Number of demonstrations per class in ``prompts``.

    Raises:
        InputError: A prompt has no demonstration, a seed has no training prompt, the loss leaves the range of the number
            format, or the model's family is not supported.

    Returns:
        A pair of rows and tensors. One row per prompt and method, in this order: prompt_id, method, shots, gold and prediction
        (class indices), correct, class_log_probs (C floats: log-softmax over the label words). Tensors for each seed:
        ``beta_SEED``, shape (L, H, D), ``losses_SEED``, shape (E,), and ``classes_SEED``, the class of each demonstration,
        shape (D,).
    """
    settings = settings or Settings()
    zero_shot = next((p for p in prompts if not len(p.anchors)), None)
    if zero_shot:
        raise InputError(
            f"prompt {zero_shot.prompt_id} has no demonstration, but re-weighting requires label words; use prompts with "
            "demonstrations"
        )
    require_supported(model.network)
    answers = {VANILLA: class_log_probs(model, prompts, batch_tokens)}
    few_shot_by_id = {p.prompt_id: p for p in few_shot}
    answers[FEW_SHOT] = class_log_probs(model, [few_shot_by_id[p.prompt_id] for p in prompts], batch_tokens)
    answers[REWEIGHTED] = [None] * len(prompts)
    tensors: dict[str, np.ndarray] = {}
    seeds = sorted({p.seed for p in prompts})
    runs = {seed: [p for p in auxiliary if p.seed == seed] for seed in seeds}
    for seed, trained in train(model, runs, settings, batch_tokens).items():
        tensors |= {f"beta_{seed}": trained.beta, f"losses_{seed}": trained.losses}
        index = [i for i, p in enumerate(prompts) if p.seed == seed]
        tensors[f"classes_{seed}"] = prompts[index[0]].demo_labels
        seed_prompts = [prompts[i] for i in index]
        for i, answer in zip(index, reweighted(model, seed_prompts, batch_tokens, trained.beta), strict=True):
            answers[REWEIGHTED][i] = answer
        progress(len(index))
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "method": method,
            "shots": shots if method == FEW_SHOT else prompt_shots,
            "gold": prompt.gold,
            "prediction": int(np.argmax(log_probs[i])),
            "correct": int(np.argmax(log_probs[i])) == prompt.gold,
            "class_log_probs": log_probs[i].tolist(),
        }
        for i, prompt in enumerate(prompts)
        for method, log_probs in answers.items()
    ]
    return pd.DataFrame(rows), tensors


def train(
    model: LanguageModel, runs: Mapping[int, Sequence[TokenizedPrompt]], settings: Settings, batch_tokens: int = 4096
) -> dict[int, Trained]:
    """Train beta on the prompts of each seed.

    Seeds are trained in parallel if memory permits. Each seed has its own beta, steps and order, so the result is the same as
    in separate training.

    Args:
        model: A supported model with frozen parameters.
        runs: Training prompts of each seed. All prompts of a seed have the same demonstrations.
        settings: See :class:`Settings`. Its seed and the seed of the run determine the order of the prompts.
        batch_tokens: See :func:`icl_lens.models.batching.batches`. Seeds in parallel keep the keys and values of at most four
            times this number of tokens (:data:`icl_lens.network.memory.TOKEN_SHARE`). A seed that needs more is trained
            separately.

    Raises:
        InputError: A seed has no training prompt, or the loss or its gradient is non-finite.
    """
    seeds_by_shape: dict[tuple[int, ...], list[int]] = {}
    for seed, examples in runs.items():
        if not examples:
            raise InputError(
                f"seed {seed}: no training prompt fits the context of {model.name}, so re-weighting cannot be trained; use "
                "a model with a longer context"
            )
        first = examples[0]
        shape = len(examples), len(first.demo_labels), len(first.label_ids), len(first.anchors)
        seeds_by_shape.setdefault(shape, []).append(seed)
    trained: dict[int, Trained] = {}
    for seeds in seeds_by_shape.values():
        cached_tokens = {seed: _cached_tokens(model, runs[seed]) for seed in seeds}
        max_tokens = model.sizes.max_cached_tokens(batch_tokens)
        while seeds:
            count = 1
            while (
                model.shares_prefixes and count < len(seeds) and sum(cached_tokens[s] for s in seeds[: count + 1]) <= max_tokens
            ):
                count += 1
            trained |= _train_together(model, {seed: runs[seed] for seed in seeds[:count]}, settings, batch_tokens)
            seeds = seeds[count:]
    return trained


def _cached_tokens(model: LanguageModel, examples: Sequence[TokenizedPrompt]) -> int:
    """Return the number of tokens for which :func:`_read_but_last` keeps keys and values."""
    groups = group_by_prefix(model, examples)
    return sum(len(g.ids) + sum(len(examples[i].ids) - 1 - len(g.ids) for i in g.index) for g in groups)


def _train_together(
    model: LanguageModel, runs: Mapping[int, Sequence[TokenizedPrompt]], settings: Settings, batch_tokens: int
) -> dict[int, Trained]:
    """Train S seeds with equal numbers of prompts, demonstrations and classes, see :func:`train`.

    S is 1 if the model does not support shared prefixes.
    """
    examples = list(runs.values())
    heads, demonstrations = model.network.config.get_text_config().num_attention_heads, len(examples[0][0].demo_labels)
    beta = torch.zeros(len(runs), model.layers, heads, demonstrations, device=model.device, requires_grad=True)  # (S, L, H, D)
    optimiser = torch.optim.Adam([beta], lr=settings.learning_rate, betas=(0.9, 0.999))  # updates entries independently
    generators = [np.random.default_rng([settings.seed, seed]) for seed in runs]
    prompt_prefixes = [_read_but_last(model, prompts, batch_tokens) for prompts in examples]
    losses = []
    with scale_rows(model.network) as reweigh, recompute_layers(model.network):
        for _ in range(settings.epochs):
            orders = [generator.permutation(len(examples[0])).tolist() for generator in generators]
            step_losses = []
            for step in zip(*orders, strict=True):
                prompts = [seed_values[i] for seed_values, i in zip(examples, step, strict=True)]
                step_prefixes = [seed_values[i] for seed_values, i in zip(prompt_prefixes, step, strict=True)]
                if model.shares_prefixes:
                    batch = last_tokens(model, prompts, step_prefixes, score=True)
                else:
                    batch = next(batches(model, prompts, 1, score=True))
                reweigh(*_entries(batch, prompts, beta.exp().transpose(0, 1)[:, batch.index]))
                scores, gold = class_logits(model, batch)[batch.first_rows], batch.gold[batch.first_rows]  # (S, C), (S,)
                loss = nn.functional.cross_entropy(scores, gold, reduction="none")  # (S,)
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                step_losses.append(loss.detach())
            losses.append(torch.stack(step_losses).cpu().double().mean(0).numpy())  # (S,)
    found = {}
    for i, seed in enumerate(runs):
        found[seed] = Trained(beta[i].detach().cpu().numpy(), np.array([epoch[i] for epoch in losses]))
        if not (np.isfinite(found[seed].beta).all() and np.isfinite(found[seed].losses).all()):
            raise InputError(
                f"seed {seed}: training exceeds the range of {model.dtype}; set dtype to float32 or reduce "
                "studies.reweighting.learning_rate"
            )
    return found


@torch.no_grad()
def _read_but_last(
    model: LanguageModel, examples: Sequence[TokenizedPrompt], batch_tokens: int
) -> dict[int, prefixes.Prefix | None]:
    """Return the prefix of each prompt, all but its last token, or None if the model does not support shared prefixes.

    The part that all prompts share is computed once.
    """
    read: dict[int, prefixes.Prefix | None] = dict.fromkeys(range(len(examples)))
    if model.shares_prefixes:
        for group in group_by_prefix(model, examples):
            shared_prefix = prefixes.read(model.network, group.ids)
            continuations = [examples[i].ids[len(group.ids) : -1] for i in group.index]
            read |= zip(group.index, prefixes.read_each(model.network, continuations, shared_prefix, batch_tokens), strict=True)
    return read


def _entries(batch: Batch, prompts: Sequence[TokenizedPrompt], factors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the arguments of :func:`icl_lens.attention.scale.scale_rows` for a batch: its predicting positions.

    Args:
        batch: The batch.
        prompts: Prompts that the indices of the batch refer to.
        factors: Factors of the demonstrations, shape (L, B or 1, H, D).
    """
    device = factors.device
    anchors = torch.from_numpy(np.stack([prompts[i].anchors for i in batch.index])).to(device)  # (B, A)
    demonstrations = torch.from_numpy(np.stack([prompts[i].anchor_demonstrations for i in batch.index])).to(device)  # (B, A)
    # In a row with padding on the left, shift the positions by the length of the padding.
    padding = batch.last - torch.tensor([prompts[i].last for i in batch.index], device=device)  # (B,)
    keys, factors = anchors + padding[:, None], factors.expand(-1, len(anchors), -1, -1)  # (B, A), (L, B, H, D)
    if anchors.shape[1] != factors.shape[-1]:  # several anchors per demonstration
        index = demonstrations[None, :, None].expand(*factors.shape[:3], -1)  # (L, B, H, A)
        factors = factors.gather(-1, index)
    if batch.appended is None:
        return batch.last, keys, factors, torch.arange(len(anchors), device=device)
    rows = batch.appended.rows.to(device)  # (E,)
    return batch.appended.positions, keys[rows], factors[:, rows], rows


@torch.inference_mode()
def reweighted(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], batch_tokens: int, beta: np.ndarray
) -> list[np.ndarray]:
    """Return the log-probabilities over the label words, shape (C,) each, re-weighted by beta of shape (L, H, D)."""
    factors = torch.from_numpy(beta).to(model.device).exp()[:, None]  # (L, 1, H, D)

    def logits(model: LanguageModel, batch: Batch) -> Tensor:
        # Enter the context for each batch separately: the prefix of the next group contains no last position to scale.
        with scale_rows(model.network) as reweigh:
            reweigh(*_entries(batch, prompts, factors))
            return class_logits(model, batch)  # (B, C)

    return class_log_probs(model, prompts, batch_tokens, logits)
