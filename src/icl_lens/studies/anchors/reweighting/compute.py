"""Anchor re-weighting: a learned factor on the attention that the last position pays to each demonstration's label word.

*Label Words are Anchors*, section 3.1, eq. 9 and 12, and appendix H. With A the attention weights of layer l and head h, q the
last position and p_i the label word of demonstration i,

    A_hat(q, p_i) = exp(beta^i_{l,h}) A(q, p_i)

after the softmax, and the row is not renormalised (released code). beta starts at 0, where nothing is changed, and is trained
by Adam on further training texts under the same demonstrations, one at a time; the loss is the cross-entropy of the gold label
over the label words. The model's weights stay as they are.

Keys and values of all positions but the last do not depend on beta. The beginning of each training prompt, all but its last
token, is read once, without a gradient; a step runs the last token alone, forward and backward. Training holds the keys and
values of a seed's demonstrations, once for all its prompts, and those of its training texts, so it fits where inference fits.

The re-weighted answers are compared with those to the same prompts as they are, and with those to prompts with more
demonstrations per class, which are the same and the training texts: as many as the context holds.
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
from icl_lens.models.batching import Batch, batches, fitting, last_tokens, sharing
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.protocol import with_fewer_shots
from icl_lens.studies.anchors.reweighting.study import FEW_SHOT, REWEIGHTED, VANILLA, Settings
from icl_lens.studies.inputs import Given, Inputs, of_table


@dataclass(frozen=True)
class Trained:
    """What training found for one seed.

    Attributes:
        beta: Shape (L, H, D), float32.
        losses: Mean loss over the steps of each epoch, each before its step, shape (E,), nats.
    """

    beta: np.ndarray
    losses: np.ndarray


def prepare(given: Given) -> Inputs:
    """From the prompts tables to what :func:`compute` takes: of the baseline as many demonstrations as the context holds.

    Args:
        given: What was read. The further tables are ``train``, whose queries are the training texts, and ``baseline``, the same
            queries with more demonstrations.

    Raises:
        InputError: The tables do not go together: other demonstrations, seeds or queries; or no prompt fits.
    """
    own = of_table(given)
    table, auxiliary, few_shot = given.rows_of(own.prompts), given.further["train"], given.further["baseline"]
    demonstrations = {seed: _only_set(rows) for seed, rows in table.groupby("seed")}
    for seed, indices in demonstrations.items():
        rows = auxiliary[auxiliary["seed"] == seed]
        if rows.empty:
            raise InputError(f"the auxiliary prompts have none of seed {seed}; draw both tables with the same seeds")
        if _only_set(rows) != indices:
            raise InputError(f"seed {seed}: the auxiliary prompts have other demonstrations than the prompts; draw both alike")
    same = ["seed", "query_index", "gold"]
    matched = table.set_index("prompt_id")[same]
    if not few_shot.set_index("prompt_id")[same].reindex(matched.index).equals(matched):
        raise InputError("the few-shot prompts have other queries than the prompts; draw both with the same seeds and queries")
    few_shot = few_shot[few_shot["prompt_id"].isin(table["prompt_id"])]
    model, own_shots = given.model, int(table["shots"].iloc[0])
    for shots in range(min(given.settings.shots, int(few_shot["shots"].iloc[0])), own_shots, -1):
        prompts = given.tokenize(with_fewer_shots(few_shot, shots))
        if model.context is None or max(len(p.ids) for p in prompts) <= model.context:
            break
    else:
        shots, prompts = own_shots, own.prompts
    more = {
        "auxiliary": fitting(model, given.tokenize(auxiliary)),
        "few_shot": prompts,
        "shots": shots,
        "own_shots": own_shots,
    }
    return Inputs(own.prompts, own.left_out, more)


def _only_set(rows: pd.DataFrame) -> tuple[int, ...]:
    """The demonstrations of one seed's prompts.

    Raises:
        InputError: They differ from prompt to prompt.
    """
    found = {tuple(indices) for indices in rows["demo_indices"]}
    if len(found) != 1:
        raise InputError(
            f"seed {rows['seed'].iloc[0]}: the prompts have {len(found)} sets of demonstrations; re-weighting learns a factor "
            "for each demonstration, so all prompts of a seed must share them (a set named shared-...)"
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
    own_shots: int,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Answers to every prompt by three methods, and what was trained.

    Args:
        model, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        prompts: They fit the model's context, and share their demonstrations within a seed.
        auxiliary: Training prompts of every seed, with the demonstrations of the seed.
        few_shot: The prompts with more demonstrations; those of other ids are left out.
        shots: Of those, per class.
        own_shots: Of the prompts, per class.

    Raises:
        InputError: A prompt has no demonstration, a seed no training prompt, the loss leaves the number format's range, or the
            model's family is not supported.

    Returns:
        One row a prompt and method, in that order: prompt_id, method, shots, gold and prediction (class indices), correct,
        class_log_probs (C floats: log-softmax over the label words). And for each seed the tensors ``beta_SEED``, shape (L, H,
        D), ``losses_SEED``, shape (E,), and ``classes_SEED``, the class of each demonstration, shape (D,).
    """
    settings = settings or Settings()
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; re-weighting needs label words")
    require_supported(model.network)
    answers = {VANILLA: class_log_probs(model, prompts, batch_tokens)}
    more = {p.prompt_id: p for p in few_shot}
    answers[FEW_SHOT] = class_log_probs(model, [more[p.prompt_id] for p in prompts], batch_tokens)
    answers[REWEIGHTED] = [None] * len(prompts)
    tensors: dict[str, np.ndarray] = {}
    seeds = sorted({p.seed for p in prompts})
    runs = {seed: [p for p in auxiliary if p.seed == seed] for seed in seeds}
    for seed, trained in train(model, runs, settings, batch_tokens).items():
        tensors |= {f"beta_{seed}": trained.beta, f"losses_{seed}": trained.losses}
        index = [i for i, p in enumerate(prompts) if p.seed == seed]
        tensors[f"classes_{seed}"] = prompts[index[0]].demo_labels
        of_seed = [prompts[i] for i in index]
        for i, answer in zip(index, reweighted(model, of_seed, batch_tokens, trained.beta), strict=True):
            answers[REWEIGHTED][i] = answer
        progress(len(index))
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "method": method,
            "shots": shots if method == FEW_SHOT else own_shots,
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

    Seeds are trained side by side where there is room: each has its own beta, steps and order, so that what it learns is what
    it learns alone.

    Args:
        model: A supported model, parameters frozen.
        runs: Training prompts of each seed, all of a seed with the same demonstrations.
        settings: See :class:`Settings`; its seed and the run's decide the order of the prompts.
        batch_tokens: See :func:`icl_lens.models.batching.batches`; seeds side by side hold at most the keys and values of four
            times as many (:data:`icl_lens.network.memory.TOKEN_SHARE`), and a seed that holds more is alone.

    Raises:
        InputError: A seed has none, or the loss or its gradient is no finite number.
    """
    waiting: dict[tuple[int, ...], list[int]] = {}
    for seed, examples in runs.items():
        if not examples:
            raise InputError(f"seed {seed}: no training prompt fits the context of {model.name}, so nothing can be re-weighted")
        alike = len(examples), len(examples[0].anchors), len(examples[0].label_ids)
        waiting.setdefault(alike, []).append(seed)
    trained: dict[int, Trained] = {}
    for seeds in waiting.values():
        held = {seed: _held(model, runs[seed]) for seed in seeds}
        room = model.sizes.held(batch_tokens)
        while seeds:
            count = 1
            while model.shares_prefixes and count < len(seeds) and sum(held[s] for s in seeds[: count + 1]) <= room:
                count += 1
            trained |= _train_together(model, {seed: runs[seed] for seed in seeds[:count]}, settings, batch_tokens)
            seeds = seeds[count:]
    return trained


def _held(model: LanguageModel, examples: Sequence[TokenizedPrompt]) -> int:
    """Tokens whose keys and values :func:`_read_but_last` keeps."""
    groups = sharing(model, examples)
    return sum(len(g.ids) + sum(len(examples[i].ids) - 1 - len(g.ids) for i in g.index) for g in groups)


def _train_together(
    model: LanguageModel, runs: Mapping[int, Sequence[TokenizedPrompt]], settings: Settings, batch_tokens: int
) -> dict[int, Trained]:
    """:func:`train` for S seeds with equally many prompts, demonstrations and classes; S is 1 where no prefix can be shared."""
    examples = list(runs.values())
    heads, demonstrations = model.network.config.get_text_config().num_attention_heads, len(examples[0][0].anchors)
    beta = torch.zeros(len(runs), model.layers, heads, demonstrations, device=model.device, requires_grad=True)  # (S, L, H, D)
    optimiser = torch.optim.Adam([beta], lr=settings.learning_rate, betas=(0.9, 0.999))  # each entry by itself
    generators = [np.random.default_rng([settings.seed, seed]) for seed in runs]
    read = [_read_but_last(model, prompts, batch_tokens) for prompts in examples]
    losses = []
    with scale_rows(model.network) as reweigh:
        for _ in range(settings.epochs):
            orders = [generator.permutation(len(examples[0])).tolist() for generator in generators]
            seen = []
            for step in zip(*orders, strict=True):
                prompts = [of_seed[i] for of_seed, i in zip(examples, step, strict=True)]
                beginnings = [of_seed[i] for of_seed, i in zip(read, step, strict=True)]
                batch = last_tokens(model, prompts, beginnings) if model.shares_prefixes else next(batches(model, prompts, 1))
                reweigh(*_entries(batch, prompts, beta.exp().transpose(0, 1)))
                loss = nn.functional.cross_entropy(class_logits(model, batch), batch.gold, reduction="none")  # (S,)
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                seen.append(loss.detach())
            losses.append(torch.stack(seen).cpu().double().mean(0).numpy())  # (S,)
    found = {}
    for number, seed in enumerate(runs):
        found[seed] = Trained(beta[number].detach().cpu().numpy(), np.array([epoch[number] for epoch in losses]))
        if not (np.isfinite(found[seed].beta).all() and np.isfinite(found[seed].losses).all()):
            raise InputError(
                f"seed {seed}: training leaves the range of {model.dtype}; use float32 (dtype) or a smaller "
                "studies.reweighting.learning_rate"
            )
    return found


@torch.no_grad()
def _read_but_last(
    model: LanguageModel, examples: Sequence[TokenizedPrompt], batch_tokens: int
) -> dict[int, prefixes.Prefix | None]:
    """All but the last token of each prompt as the model has read it, the common beginning once; None where it cannot share."""
    read: dict[int, prefixes.Prefix | None] = dict.fromkeys(range(len(examples)))
    if model.shares_prefixes:
        for group in sharing(model, examples):
            common = prefixes.read(model.network, group.ids)
            rest = [examples[i].ids[len(group.ids) : -1] for i in group.index]
            read |= zip(group.index, prefixes.read_each(model.network, rest, common, batch_tokens), strict=True)
    return read


def _entries(batch: Batch, prompts: Sequence[TokenizedPrompt], factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is scaled in a batch, and by what, shape (L, B or 1, H, D): see :func:`icl_lens.attention.scale.scale_rows`."""
    anchors = torch.from_numpy(np.stack([prompts[i].anchors for i in batch.index])).to(factors.device)  # (B, D)
    # Where a row is padded on the left, places count from the padding.
    padding = batch.last - torch.tensor([prompts[i].last for i in batch.index], device=factors.device)  # (B,)
    return batch.last, anchors + padding[:, None], factors.expand(-1, len(anchors), -1, -1)


@torch.inference_mode()
def reweighted(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], batch_tokens: int, beta: np.ndarray
) -> list[np.ndarray]:
    """Log-probabilities over the label words, shape (C,) each, re-weighted by beta of shape (L, H, D)."""
    factors = torch.from_numpy(beta).to(model.device).exp()[:, None]  # (L, 1, H, D)

    def logits(model: LanguageModel, batch: Batch) -> Tensor:
        # Open for a batch only: the beginning that the next group reads holds no last row.
        with scale_rows(model.network) as reweigh:
            reweigh(*_entries(batch, prompts, factors))
            return class_logits(model, batch)  # (B, C)

    return class_log_probs(model, prompts, batch_tokens, logits)
