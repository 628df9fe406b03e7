"""Anchor re-weighting: a learned factor on the attention that the last position pays to each demonstration's label word.

*Label Words are Anchors*, section 3.1, eq. 9 and 12, and appendix H. With A the attention weights of layer l and head h, q the
last position and p_i the label word of demonstration i,

    A_hat(q, p_i) = exp(beta^i_{l,h}) A(q, p_i)

after the softmax, and the row is not renormalised (released code). beta starts at 0, where nothing is changed, and is trained
by Adam on further training texts under the same demonstrations, one at a time; the loss is the cross-entropy of the gold label
over the label words. The model's weights stay as they are.

Keys and values of all positions but the last do not depend on beta. So the beginning of each training prompt, all but its last
token, is read once, without a gradient; a step runs the last token alone, forward and backward. Kept are the keys and values of
a seed's demonstrations, once for all its prompts, and of its training texts, so training fits where inference fits.

Beside the re-weighted answers stand those of the same prompts as they are, and those of more demonstrations per class, which
are the same and the training texts: as many as the context holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from icl_lens import attention, prefixes
from icl_lens.errors import InputError
from icl_lens.models import Batch, LanguageModel, batches, class_logits, fitting, shared_batches, sharing
from icl_lens.positions import TokenizedPrompt
from icl_lens.prompts import with_fewer_shots
from icl_lens.reweighting_plan import FEW_SHOT, REWEIGHTED, VANILLA, Settings

__all__ = ["Settings", "Trained", "compute", "gather", "train"]


@dataclass(frozen=True)
class Trained:
    """What training found for one seed.

    Attributes:
        beta: Shape (L, H, D), float32.
        losses: Mean loss over the steps of each epoch, each before its step, shape (E,), nats.
    """

    beta: np.ndarray
    losses: np.ndarray


def gather(
    model: LanguageModel,
    table: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    tokenized: Callable[[pd.DataFrame], list[TokenizedPrompt]],
    settings: Settings,
) -> dict[str, object]:
    """From the prompts tables to what :func:`compute` takes besides the prompts.

    Args:
        model: Its context decides how many demonstrations the baseline has.
        table: The prompts.
        others: ``auxiliary``, whose queries are the training texts, and ``few_shot``, the same queries, more demonstrations.
        tokenized: Tokenises a prompts table.
        settings: See :class:`Settings`.

    Raises:
        InputError: The tables do not go together: other demonstrations, seeds or queries; or no training prompt fits.
    """
    auxiliary, few_shot = others["auxiliary"], others["few_shot"]
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
    own = int(table["shots"].iloc[0])
    for shots in range(min(settings.shots, int(few_shot["shots"].iloc[0])), own, -1):
        prompts = tokenized(with_fewer_shots(few_shot, shots))
        if model.context is None or max(len(p.ids) for p in prompts) <= model.context:
            break
    else:
        shots, prompts = own, tokenized(table)
    return {"auxiliary": fitting(model, tokenized(auxiliary)), "few_shot": prompts, "shots": shots, "own_shots": own}


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
        model: Any supported model.
        prompts: They fit the model's context, and share their demonstrations within a seed.
        batch_tokens: See :func:`icl_lens.models.batches`.
        progress: Told how many more prompts are done.
        settings: See :class:`Settings`.
        auxiliary: Training prompts of every seed, with the demonstrations of the seed.
        few_shot: The prompts with more demonstrations; those of other ids are left out.
        shots: Of those, per class.
        own_shots: Of the prompts, per class.

    Raises:
        InputError: A prompt has no demonstration, a seed no training prompt, the loss leaves the number format's range, or the
            model's family is not supported.

    Returns:
        One row a prompt and method, in that order: prompt_id, method, shots, gold and prediction (class indices),
        class_log_probs (C floats: log-softmax over the label words). And for each seed the tensors ``beta_SEED``, shape
        (L, H, D), ``losses_SEED``, shape (E,), and ``classes_SEED``, the class of each demonstration, shape (D,).
    """
    settings = settings or Settings()
    bare = next((p for p in prompts if not len(p.anchors)), None)
    if bare:
        raise InputError(f"prompt {bare.prompt_id} has no demonstration; re-weighting needs label words")
    attention.require_supported(model.network)
    answers = {VANILLA: _answers(model, prompts, batch_tokens)}
    more = {p.prompt_id: p for p in few_shot}
    answers[FEW_SHOT] = _answers(model, [more[p.prompt_id] for p in prompts], batch_tokens)
    answers[REWEIGHTED] = [None] * len(prompts)
    tensors: dict[str, np.ndarray] = {}
    for seed in sorted({p.seed for p in prompts}):
        trained = train(model, [p for p in auxiliary if p.seed == seed], seed, settings)
        tensors |= {f"beta_{seed}": trained.beta, f"losses_{seed}": trained.losses}
        index = [i for i, p in enumerate(prompts) if p.seed == seed]
        tensors[f"classes_{seed}"] = prompts[index[0]].demo_labels
        of_seed = [prompts[i] for i in index]
        for i, answer in zip(index, _answers(model, of_seed, batch_tokens, trained.beta), strict=True):
            answers[REWEIGHTED][i] = answer
        progress(len(index))
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "method": method,
            "shots": shots if method == FEW_SHOT else own_shots,
            "gold": prompt.gold,
            "prediction": int(np.argmax(log_probs[i])),
            "class_log_probs": log_probs[i].tolist(),
        }
        for i, prompt in enumerate(prompts)
        for method, log_probs in answers.items()
    ]
    return pd.DataFrame(rows), tensors


def train(model: LanguageModel, examples: Sequence[TokenizedPrompt], seed: int, settings: Settings) -> Trained:
    """Train beta on the prompts of one seed.

    Args:
        model: A supported model, parameters frozen.
        examples: Training prompts, all with the same demonstrations.
        seed: Of the run; with the settings' own it decides the order of the examples.
        settings: See :class:`Settings`.

    Raises:
        InputError: There are none, or the loss or its gradient is no finite number.
    """
    if not examples:
        raise InputError(f"seed {seed}: no training prompt fits the context of {model.name}, so nothing can be re-weighted")
    shape = model.network.config.get_text_config()
    beta = torch.zeros(
        model.layers, shape.num_attention_heads, len(examples[0].anchors), device=model.device, requires_grad=True
    )  # (L, H, D)
    optimiser = torch.optim.Adam([beta], lr=settings.learning_rate, betas=(0.9, 0.999))
    generator = np.random.default_rng([settings.seed, seed])
    read = _read_but_last(model, examples)
    losses = []
    with attention.scale_rows(model.network) as reweigh:
        for _ in range(settings.epochs):
            seen = []
            for i in generator.permutation(len(examples)):
                batch = next(batches(model, examples, 1, [int(i)], read[i]))  # the last token of one prompt
                reweigh(*_entries(batch, examples, beta))
                loss = nn.functional.cross_entropy(class_logits(model, batch), batch.gold)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                seen.append(loss.detach())
            losses.append(torch.stack(seen).cpu().double().mean().item())
    if not (torch.isfinite(beta).all() and np.isfinite(losses).all()):
        raise InputError(
            f"seed {seed}: training leaves the range of {model.dtype}; use float32 (dtype) or a smaller "
            "studies.reweighting.learning_rate"
        )
    return Trained(beta.detach().cpu().numpy(), np.array(losses))


@torch.no_grad()
def _read_but_last(model: LanguageModel, examples: Sequence[TokenizedPrompt]) -> dict[int, prefixes.Prefix | None]:
    """All but the last token of each prompt as the model has read it, the common beginning once; None where it cannot share."""
    read: dict[int, prefixes.Prefix | None] = dict.fromkeys(range(len(examples)))
    if model.shares_prefixes:
        for group in sharing(model, examples):
            common = prefixes.read(model.network, group.ids)
            for i in group.index:
                read[i] = prefixes.read(model.network, examples[i].ids[len(group.ids) : -1], common)
    return read


def _entries(batch: Batch, prompts: Sequence[TokenizedPrompt], beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is scaled in a batch, and by what: see :func:`icl_lens.attention.scale_rows`; ``beta`` has shape (L, H, D)."""
    anchors = torch.from_numpy(np.stack([prompts[i].anchors for i in batch.index])).to(beta.device)  # (B, D)
    return batch.last, anchors, beta.exp()[:, None].expand(-1, len(anchors), -1, -1)  # (B,), (B, D), (L, B, H, D)


@torch.inference_mode()
def _answers(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], batch_tokens: int, beta: np.ndarray | None = None
) -> list[np.ndarray]:
    """Log-probabilities over the label words, shape (C,) each, re-weighted by beta of shape (L, H, D) if there is one."""
    found: list[np.ndarray] = [np.empty(0)] * len(prompts)
    trained = None if beta is None else torch.from_numpy(beta).to(model.device)
    for batch in shared_batches(model, prompts, batch_tokens):
        if trained is None:
            logits = class_logits(model, batch)  # (B, C)
        else:
            # Open for a batch only: the beginning that the next group reads holds no last row.
            with attention.scale_rows(model.network) as reweigh:
                reweigh(*_entries(batch, prompts, trained))
                logits = class_logits(model, batch)  # (B, C)
        log_probs = logits.cpu().double().log_softmax(-1).numpy()  # (B, C)
        for place, row in zip(batch.index, log_probs, strict=True):
            found[place] = row
    return found
