"""The loss and the training loop of the embedded model.

What is learned: to predict the label words of an episode's demonstrations once their class has been shown, whatever words stand
for the classes in this episode. The loss has five terms:

* *matching*: cross-entropy among the episode's shown label words only. It says which demonstration to look at and nothing else;
  without it the model first learns which words are labels and how often each was shown, and stays there;
* *answer*: cross-entropy over the whole vocabulary on the same labels, once the first rung has been passed, as the next;
* *first seen*: where the class has not been shown yet, cross-entropy with the frequencies of the label words that the episode
  has not used: that is all there is to know, and a text must not favour a label word;
* *text*: next-token cross-entropy on a sample of an episode's positions;
* *documents*: next-token cross-entropy on plain text about one topic, so that words can be known by their company.
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

# Plain text of one step: documents, their words, the share of the words that are topical, and how many words at the start of
# each say too little of its topic to learn from.
DOCUMENTS, DOCUMENT_LENGTH, DOCUMENT_TOPICAL, DOCUMENT_HEAD = 4, 96, 0.6, 8
# How fast the matching loss that the curriculum looks at follows the loss of a step.
SMOOTHING = 0.03


@dataclass
class Losses:
    """The terms of the loss, and the accuracy on shown labels, which is only watched."""

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
    """One forward pass; logits are computed only where a loss needs them.

    Args:
        model: The model.
        episodes: On the model's device, as are the next two.
        label_pool: ``(P,)`` label tokens.
        label_weight: ``(P,)`` how often each is drawn.
        text_share: The share of positions that the text loss is taken on.
        generator: Draws these positions; on the processor.
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
    """Cross-entropy of ``logits`` (N, V); 0 where there is nothing to predict, as in a step that shows no class twice."""
    return F.cross_entropy(logits, target) if len(logits) else logits.sum()


def document_loss(model: LlamaForCausalLM, documents: Tensor) -> Tensor:
    """Next-token cross-entropy on plain text ``(B, T)``, once its topic can be known."""
    hidden = model.model(input_ids=documents, use_cache=False).last_hidden_state  # (B, T, W)
    logits = model.lm_head(hidden[:, DOCUMENT_HEAD:-1])  # (B, S, V)
    return F.cross_entropy(logits.flatten(0, 1), documents[:, DOCUMENT_HEAD + 1 :].flatten())


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear rise, plateau, linear fall to zero at the last step."""
    rise = (step + 1) / recipe.warm_up
    fall = (recipe.total_steps - step) / max(1.0, recipe.cool_down * recipe.total_steps)
    return recipe.learning_rate * min(1.0, rise, fall)


@dataclass
class Progress:
    """Where the training stands, beside its tensors.

    Attributes:
        step: Optimiser steps taken.
        rung: Index of the curriculum's rung.
        unpassed: How many rungs were left because they had been tried long enough.
        since: Steps taken on it.
        smoothed: The smoothed matching loss.
        episodes: Episodes seen.
        tokens: Tokens seen, documents included.
    """

    step: int
    rung: int
    unpassed: int
    since: int
    smoothed: float
    episodes: int
    tokens: int


class Trainer:
    """Trains a new model, one optimiser step at a time; its whole state can be taken out and put back.

    Args:
        recipe: How it is trained.
        material: What it is trained on.
        device: Where.
    """

    def __init__(self, recipe: Recipe, material: Material, device: torch.device | str = "cpu") -> None:
        torch.set_num_threads(recipe.threads)  # it decides the order of sums
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
        """Takes one step; its figures: the rung, the smoothed matching loss, every term of the loss, the accuracy."""
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
        """Goes to the next rung when this one is passed, or has been tried long enough."""
        at, curriculum = self.progress, self.recipe.curriculum
        passed = at.smoothed < curriculum.gate
        if at.rung + 1 < len(self.difficulties) and (passed or at.since >= curriculum.patience):
            how = "passed" if passed else "left unpassed"
            log.info("step %d: rung %d %s with matching loss %.3f", at.step, at.rung, how, at.smoothed)
            at.rung, at.unpassed, at.since = at.rung + 1, at.unpassed + (not passed), 0
            # The new rung must show its own loss before it can be passed.
            at.smoothed = max(at.smoothed, 2 * curriculum.gate)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the next step depends on: tensors (weights, the optimiser's, the generators'), and plain values."""
        tensors = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        tensors |= {"generator.sampler": self.sampler.generator.get_state(), "generator.loop": self.generator.get_state()}
        return tensors, asdict(self.progress)

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Puts back what :meth:`state` gave.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: It is not the state of such a training.
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
