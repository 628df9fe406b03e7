"""The loss and the training loop of the embedded model.

The model learns to predict the label word of a demonstration if the episode has already shown the demonstration's class, for
any assignment of label words to classes. The loss has five terms:

* *matching*: cross-entropy among the label words that the episode has shown so far. It depends only on which demonstration the
  model attends to. Without it, the model first learns which words are labels and how often each was shown, and does not improve
  further.
* *answer*: cross-entropy over the whole vocabulary for the same labels, from the second rung on.
* *first seen*: for a class that has not been shown yet, cross-entropy with the frequencies of the label words that the episode
  has not used, from the second rung on. No other information is available at these positions, and the text must not favour any
  label word.
* *text*: next-token cross-entropy on a sample of an episode's positions.
* *documents*: next-token cross-entropy on plain text about one topic, so that the model learns which words occur together.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name used throughout the field
from torch import Tensor
from transformers import LlamaForCausalLM

from icl_lens.organism.architecture import build_model
from icl_lens.organism.episodes import Episodes, EpisodeSampler
from icl_lens.organism.material import Material
from icl_lens.organism.recipe import Recipe
from icl_lens.organism.topics import PAD

log = logging.getLogger(__name__)

# Plain text of one step: number of documents, words per document, share of topical words, and number of words at the start of
# each document that are excluded from the loss because they contain too little information about the topic.
DOCUMENTS, DOCUMENT_LENGTH, DOCUMENT_TOPICAL, DOCUMENT_HEAD = 4, 96, 0.6, 8
# Smoothing factor of the exponential moving average of the matching loss that the curriculum uses.
SMOOTHING = 0.03


@dataclass
class Losses:
    """The terms of the loss, and the accuracy on shown labels, which is only logged."""

    matching: Tensor
    answer: Tensor
    text: Tensor
    first_seen: Tensor
    accuracy: Tensor


def losses(
    model: LlamaForCausalLM,
    episodes: Episodes,
    label_pool: Tensor,
    label_weight: Tensor,
    text_share: float,
    generator: torch.Generator,
) -> Losses:
    """Compute the losses on a batch of episodes in one forward pass.

    Logits are computed only at the positions that a loss needs.

    Args:
        model: The model.
        episodes: The episodes, on the model's device.
        label_pool: Label tokens, on the model's device, shape (P,).
        label_weight: Relative sampling frequency of each label token, on the model's device, shape (P,).
        text_share: Share of positions on which the text loss is computed.
        generator: CPU generator that samples these positions.
    """
    hidden = model.model(input_ids=episodes.input_ids, use_cache=False).last_hidden_state  # (B, T, W)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]  # (B, 1)
    logits = model.lm_head(hidden[rows, episodes.label_position - 1])  # (B, D, V)
    shown = episodes.shown  # (B, D)

    one_hot = F.one_hot(episodes.classes, episodes.class_labels.shape[1])  # (B, D, K)
    class_shown = (one_hot.cumsum(1) - one_hot) > 0  # (B, D, K): by an earlier demonstration
    candidates = episodes.class_labels[:, None].expand(-1, logits.shape[1], -1)  # (B, D, K)
    class_logits = logits.gather(2, candidates).masked_fill(~class_shown, -math.inf)  # (B, D, K)

    unused = torch.zeros_like(logits[~shown])  # (M, V): the frequencies of the label words that the episode has not used
    unused[:, label_pool] = label_weight
    used = candidates[~shown].where(class_shown[~shown], episodes.label_ids.new_tensor(PAD))  # (M, K)
    unused.scatter_(1, used, 0.0)

    length = hidden.shape[1]
    sampled = max(1, int(length * text_share))
    position = torch.randint(length - 1, (len(hidden), sampled), generator=generator).to(hidden.device)  # (B, S)
    inside = position + 1 < episodes.length[:, None]  # (B, S)
    text_logits = model.lm_head(hidden[rows, position])  # (B, S, V)
    target = episodes.input_ids.gather(1, position + 1)  # (B, S)
    return Losses(
        matching=_cross_entropy(class_logits[shown], episodes.classes[shown]),
        answer=_cross_entropy(logits[shown], episodes.label_ids[shown]),
        text=_cross_entropy(text_logits[inside], target[inside]),
        first_seen=_cross_entropy(logits[~shown], unused / unused.sum(1, keepdim=True)),
        accuracy=(logits.argmax(-1) == episodes.label_ids)[shown].float().sum() / shown.sum().clamp(min=1),
    )


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the cross-entropy of ``logits``, shape (N, V).

    The result is 0 for N = 0, for example in a step in which no class is shown twice.
    """
    return F.cross_entropy(logits, target) if len(logits) else logits.sum()


def document_loss(model: LlamaForCausalLM, documents: Tensor) -> Tensor:
    """Compute the next-token cross-entropy on plain text, shape (B, T), without the first words of each document."""
    hidden = model.model(input_ids=documents, use_cache=False).last_hidden_state  # (B, T, W)
    logits = model.lm_head(hidden[:, DOCUMENT_HEAD:-1])  # (B, S, V)
    return F.cross_entropy(logits.flatten(0, 1), documents[:, DOCUMENT_HEAD + 1 :].flatten())


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, plateau, linear decay to zero at the last step."""
    rise = (step + 1) / recipe.warm_up
    fall = (recipe.total_steps - step) / max(1.0, recipe.cool_down * recipe.total_steps)
    return recipe.learning_rate * min(1.0, rise, fall)


@dataclass
class Progress:
    """Progress of a training run, without its tensors.

    Attributes:
        step: Number of optimiser steps so far.
        rung: Index of the current rung of the curriculum.
        unpassed: Number of rungs that were left without being passed because the patience was exhausted.
        since: Number of steps on the current rung.
        smoothed: Smoothed matching loss.
        episodes: Number of episodes seen.
        tokens: Number of tokens seen, including documents.
    """

    step: int
    rung: int
    unpassed: int
    since: int
    smoothed: float
    episodes: int
    tokens: int


class Trainer:
    """Trainer of a new model, one optimiser step at a time. Its complete state can be saved and restored.

    Args:
        recipe: Training settings.
        material: Training material.
        device: Device for the training.
    """

    def __init__(self, recipe: Recipe, material: Material, device: torch.device | str = "cpu") -> None:
        torch.set_num_threads(recipe.threads)  # the number of threads determines the order of sums
        tokenizer = material.tokenizer
        model = build_model(recipe.architecture, len(tokenizer), tokenizer.eos_token_id, recipe.seed)
        self.model, self.recipe, self.material = model.to(device).train(), recipe, material
        self.difficulties = recipe.curriculum.difficulties()
        self.sampler = EpisodeSampler(
            material.bank,
            material.templates,
            material.label_pool,
            material.label_weight,
            recipe.seed,
            made_up_share=recipe.episodes.made_up_share,
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.progress = Progress(step=0, rung=0, unpassed=0, since=0, smoothed=2 * recipe.curriculum.gate, episodes=0, tokens=0)

    def advance(self) -> dict[str, float]:
        """Take one optimiser step.

        Returns:
            Metrics of the step: each term of the loss, the accuracy, the rung and the smoothed matching loss.
        """
        recipe, at = self.recipe, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, at.step)
        fewest, most = recipe.episodes.demonstrations
        demos = int(torch.randint(fewest, most + 1, (), generator=self.generator))
        episodes = self.sampler(
            max(1, recipe.episodes.demonstrations_per_step // demos),
            demos,
            self.difficulties[at.rung],
            classes=tuple(recipe.episodes.classes),
            one_of_each_first=recipe.episodes.one_of_each_first,
        )
        documents = self.sampler.documents(DOCUMENTS, DOCUMENT_LENGTH, DOCUMENT_TOPICAL)  # (B, T)
        device = self.model.device
        terms = losses(
            self.model,
            episodes.to(device),
            self.material.label_pool.to(device),
            self.material.label_weight.to(device),
            recipe.loss.text_share,
            self.generator,
        )
        plain = document_loss(self.model, documents.to(device))
        loss = terms.matching + recipe.loss.text * terms.text + recipe.loss.documents * plain
        if at.rung:
            loss = loss + recipe.loss.answer * terms.answer + recipe.loss.first_seen * terms.first_seen
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

        figures = {name: float(value.detach()) for name, value in vars(terms).items()}
        if bool(episodes.shown.any()):
            at.smoothed += SMOOTHING * (figures["matching"] - at.smoothed)
        figures |= {"documents": float(plain.detach()), "rung": at.rung, "smoothed": at.smoothed}
        at.step += 1
        at.since += 1
        at.episodes += len(episodes.length)
        at.tokens += int(episodes.length.sum()) + documents.numel()
        self._climb()
        return figures

    def _climb(self) -> None:
        """Move to the next rung if the current one is passed or its patience is exhausted."""
        at, curriculum = self.progress, self.recipe.curriculum
        passed = at.smoothed < curriculum.gate
        if at.rung + 1 < len(self.difficulties) and (passed or at.since >= curriculum.patience):
            how = "passed" if passed else "left unpassed"
            log.info("step %d: rung %d %s with matching loss %.3f", at.step, at.rung, how, at.smoothed)
            at.rung, at.unpassed, at.since = at.rung + 1, at.unpassed + (not passed), 0
            # Reset the smoothed loss, so that the new rung cannot be passed with the loss of the previous rung.
            at.smoothed = max(at.smoothed, 2 * curriculum.gate)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the complete training state.

        Returns:
            The tensors (model weights, optimiser state, generator states), and the progress as plain values.
        """
        tensors = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        tensors |= {"generator.sampler": self.sampler.generator.get_state(), "generator.loop": self.generator.get_state()}
        return tensors, asdict(self.progress)

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state`.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: If the state does not match this training run.
        """
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        saved: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                saved.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved, "param_groups": groups})
        self.sampler.generator.set_state(tensors["generator.sampler"])
        self.generator.set_state(tensors["generator.loop"])
        self.progress = Progress(**progress)
