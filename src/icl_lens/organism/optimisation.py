"""The loss and the training loop of the embedded model.

What is learned: to predict the label words of an episode's demonstrations once their class has been shown, whatever words
stand for the classes in this episode. The loss has four terms:

* *matching*: cross-entropy among the episode's shown label words only. It says which demonstration to look at and
  nothing else; without it the model first learns which words are labels and how often each was shown, and stays there;
* *answer*: cross-entropy over the whole vocabulary on the same labels, once the first rung has been passed, as the next;
* *first seen*: where the class has not been shown yet, cross-entropy with the uniform distribution over the words of the
  label pool that the episode has not used: that is all there is to know, and a text must not favour a label word;
* *text*: next-token cross-entropy on a sample of all positions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name used throughout the field
from transformers import LlamaForCausalLM

from icl_lens.organism.episodes import Episodes, EpisodeSampler
from icl_lens.organism.recipe import Material, Training
from icl_lens.organism.topics import PAD

log = logging.getLogger(__name__)


@dataclass
class Losses:
    """The terms of the loss, and the accuracy on shown labels, which is only watched."""

    matching: torch.Tensor
    answer: torch.Tensor
    text: torch.Tensor
    first_seen: torch.Tensor
    accuracy: torch.Tensor


def losses(
    model: LlamaForCausalLM,
    episodes: Episodes,
    label_pool: torch.Tensor,
    text_share: float,
    generator: torch.Generator,
) -> Losses:
    """One forward pass; logits are computed only where a loss needs them."""
    hidden = model.model(input_ids=episodes.input_ids, use_cache=False).last_hidden_state  # (B, T, W)
    rows = torch.arange(len(hidden))[:, None]  # (B, 1)
    logits = model.lm_head(hidden[rows, episodes.label_position - 1])  # (B, D, V)
    shown = episodes.shown  # (B, D)

    one_hot = F.one_hot(episodes.classes, episodes.class_labels.shape[1])  # (B, D, K)
    class_shown = (one_hot.cumsum(1) - one_hot) > 0  # (B, D, K): by an earlier demonstration
    candidates = episodes.class_labels[:, None].expand(-1, logits.shape[1], -1)  # (B, D, K)
    class_logits = logits.gather(2, candidates).masked_fill(~class_shown, -math.inf)  # (B, D, K)

    unused = torch.zeros_like(logits[~shown])  # (M, V): 1 for words of the pool that the episode has not used
    unused[:, label_pool] = 1.0
    used = candidates[~shown].where(class_shown[~shown], episodes.label_ids.new_tensor(PAD))  # (M, K)
    unused.scatter_(1, used, 0.0)

    length = hidden.shape[1]
    position = torch.randint(length - 1, (len(hidden), max(1, int(length * text_share))), generator=generator)  # (B, S)
    inside = position + 1 < episodes.length[:, None]  # (B, S)
    text_logits = model.lm_head(hidden[rows, position])  # (B, S, V)
    target = episodes.input_ids.gather(1, position + 1)  # (B, S)
    return Losses(
        matching=F.cross_entropy(class_logits[shown], episodes.classes[shown]),
        answer=F.cross_entropy(logits[shown], episodes.label_ids[shown]),
        text=F.cross_entropy(text_logits[inside], target[inside]),
        first_seen=F.cross_entropy(logits[~shown], unused / unused.sum(1, keepdim=True)),
        accuracy=(logits.argmax(-1) == episodes.label_ids)[shown].float().mean(),
    )


def learning_rate(config: Training, step: int) -> float:
    """Linear rise, plateau, linear fall to zero at the last step."""
    rise = (step + 1) / config.warm_up
    fall = (config.steps - step) / max(1, config.cool_down)
    return config.learning_rate * min(1.0, rise, fall)


def train(model: LlamaForCausalLM, config: Training, material: Material) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains ``model`` in place; yields the step's number (from 1) and its figures after every optimiser step."""
    model.train()
    sampler = EpisodeSampler(material.bank, material.templates, material.label_pool, config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    rung, since, smoothed = 0, 0, 2 * config.gate
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        fewest, most = config.demos
        demos = int(torch.randint(fewest, most + 1, (), generator=generator))
        episodes = sampler(max(1, config.demos_per_step // demos), demos, config.curriculum[rung])
        difficulty = config.curriculum[rung]
        terms = losses(model, episodes, material.label_pool[: difficulty.labels], config.text_share, generator)
        loss = terms.matching + config.text_weight * terms.text
        if rung:
            loss = loss + config.answer_weight * terms.answer + config.first_seen_weight * terms.first_seen
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        smoothed += 0.03 * (float(terms.matching.detach()) - smoothed)
        figures = {name: float(value.detach()) for name, value in vars(terms).items()}
        tokens = int(episodes.length.sum())
        yield step + 1, {"rung": rung, "smoothed": smoothed, "tokens": tokens, **figures}
        since += 1
        if rung + 1 < len(config.curriculum) and (smoothed < config.gate or since >= config.patience):
            log.info("step %d: rung %d passed with matching loss %.3f", step + 1, rung, smoothed)
            rung, since = rung + 1, 0
            # The new rung must show its own loss before it can be passed.
            smoothed = max(smoothed, 2 * config.gate)
