"""Training of the second model from scratch: ``icl-lens reader-training``.

The loss is next-token cross-entropy, with the largest weight on the answers. The architecture and the initialisation are those
of the embedded model (:mod:`icl_lens.organism.architecture`), with a larger width and fewer layers. The prompts come from
:mod:`icl_lens.reader_organism.material`. Training takes less than half an hour on one CPU core. An interrupted run cannot be
resumed and starts from the beginning.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name used throughout the field
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from icl_lens.artifacts import provenance
from icl_lens.artifacts.files import whole_file, whole_folder
from icl_lens.errors import InputError
from icl_lens.organism.architecture import build_model
from icl_lens.organism.training import checkpoint_name, require_folder, save
from icl_lens.reader_organism.code import code_hashes
from icl_lens.reader_organism.material import Batch, Material, build_vocabulary
from icl_lens.reader_organism.recipe import Recipe

logger = logging.getLogger(__name__)

EVERY = 50
"""Number of steps averaged in one row of the training curve."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, plateau, linear decay to zero at the last step."""
    rise = (step + 1) / recipe.warm_up
    fall = (recipe.steps - step) / max(1.0, recipe.cool_down * recipe.steps)
    return recipe.learning_rate * min(1.0, rise, fall)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted mean cross-entropy of all tokens and the mean over the tokens of the last answers, in nats per token.

    The second mean has no gradient.
    """
    ids, weights, answers = (torch.from_numpy(part) for part in (batch.ids, batch.weights, batch.answers))  # (B, T) each
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, W)
    wanted = weights[:, 1:] > 0  # (B, T-1)
    each = F.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="none")  # (N,)
    weight, answer = weights[:, 1:][wanted], answers[:, 1:][wanted]  # (N,) each
    return (each * weight).sum() / weight.sum(), (each.detach() * answer).sum() / answer.sum()


@torch.no_grad()
def _share_embeddings(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Initialise the embedding of each word without a leading space with that of the same word with a leading space.

    The two are different tokens; a word at the start of a line has no leading space.
    """
    table, vocabulary = model.model.embed_tokens.weight, tokenizer.get_vocab()  # (V, W)
    for word, behind in ((word, f"\u0120{word}") for word in vocabulary if len(word) > 1):
        if behind in vocabulary:
            table[vocabulary[word]] = table[vocabulary[behind]]


def run(recipe: Recipe, *, checkpoints: Path, facts: Path) -> None:
    """Train the model and write the checkpoints and the facts file.

    Args:
        recipe: Training settings.
        checkpoints: Output folder for the checkpoints, written at the end of the training.
        facts: Output path of a JSON file with the recipe, the code hashes, the library versions, the cost of the training and
            the training curve.

    Raises:
        InputError: If the loss is non-finite, or if the output folder contains other files.
    """
    versions = provenance.library_versions()
    identity = {
        "recipe": recipe.model_dump(),
        "code": code_hashes(),
        "versions": {name: versions[name] for name in ("torch", "transformers", "tokenizers", "numpy")},
    }
    require_folder("--checkpoints", checkpoints, lambda entry: entry.name.startswith("step-"))
    torch.set_num_threads(recipe.threads)  # the number of threads determines the order of sums
    tokenizer = build_vocabulary(recipe.architecture.context)
    model = build_model(recipe.architecture, len(tokenizer), tokenizer.eos_token_id, recipe.seed).train()
    _share_embeddings(model, tokenizer)
    material = Material(recipe, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%d parameters, %d tokens in the vocabulary, %d steps", parameters, len(tokenizer), recipe.steps)
    kept, start, curve, sums, tokens = set(recipe.checkpoint_steps()), time.monotonic(), [], {}, 0
    with whole_folder(checkpoints) as unfinished:
        for step in range(recipe.steps + 1):
            if step in kept:
                save(model, tokenizer, unfinished / checkpoint_name(step))
            if step == recipe.steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            optimizer.zero_grad()
            for name, batch in (("lists", material.lists()), ("stories", material.stories())):
                loss, answer = loss_of(model, batch)
                loss.backward()
                tokens += int((batch.weights > 0).sum())
                for key, value in ((name, float(loss.detach())), (f"{name}_answer", float(answer))):
                    sums[key] = sums.get(key, 0.0) + value
            if not all(math.isfinite(value) for value in sums.values()):
                raise InputError(f"reader_organism: non-finite loss at step {step}; decrease learning_rate")
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
                count = (step % EVERY) + 1
                curve.append({"step": step + 1, **{key: value / count for key, value in sums.items()}})
                logger.info("%s seconds %.0f", " ".join(f"{k} {v:.4g}" for k, v in curve[-1].items()), time.monotonic() - start)
                sums = {}
        with whole_file(facts) as temporary:
            cost = {"parameters": parameters, "tokens": tokens, "seconds": round(time.monotonic() - start, 1), "curve": curve}
            made = {**identity, **cost}
            temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
