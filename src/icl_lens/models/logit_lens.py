"""Logit lens: the prediction that the hidden state after each layer would give.

    z_l = W_U norm(h_l)                                                                       for l = 0, ..., L - 1

h_l is the hidden state after layer l at the last position, and norm and W_U are the model's own final normalisation and
vocabulary matrix (nostalgebraist, *interpreting GPT: the logit lens*, 2020; LogitLens(h_l) in Belrose et al., *Eliciting Latent
Predictions from Transformers with the Tuned Lens*, 2023, section 2). z_{L-1} are the logits of the model. Those of earlier
layers are not predictions of the model, because later layers may represent the same information in another basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layer_states import State, record, resume
from icl_lens.network.placement import logits_to_keep
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.positions import TokenizedPrompt


@torch.inference_mode()
def logit_lens(
    model: LanguageModel, prompts: Sequence[TokenizedPrompt], batch_tokens: int = 4096, top_tokens: int = 5
) -> pd.DataFrame | None:
    """Compute the logit lens at the last position of each prompt.

    Args:
        model: The model.
        prompts: Prompts that fit the context length of the model.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        top_tokens: Number of most likely tokens of the whole vocabulary to return.

    Returns:
        One row per prompt and layer, in the order of the prompts: prompt_id, layer (from 0), class_log_probs (C floats,
        log-softmax over the first tokens of the label words), label_probability (probability of these tokens together, in the
        softmax over the whole vocabulary), top_tokens (token ids, most likely first), top_log_probs (their log-probabilities
        over the whole vocabulary, in nats). None if the states after a layer cannot be passed to the final normalisation of
        this model (:attr:`icl_lens.models.language_model.LanguageModel.can_resume`).
    """
    if not model.can_resume:
        return None
    layers = model.layers
    tables: dict[int, pd.DataFrame] = {}
    for batch in batches(model, prompts, batch_tokens, kept="states"):
        with record(model.network, range(1, layers + 1)) as states:  # the output of layer l is the input of layer l + 1
            model.network(**batch.inputs(), logits_to_keep=logits_to_keep(model.network))
        final = states[layers]
        for row, i in enumerate(batch.index):
            last = [states[layer].values[row, int(batch.last[row])] for layer in sorted(states)]  # L times (D,)
            values = torch.stack([state.to(final.values.device) for state in last])[:, None]  # (L, 1, D)
            tables[i] = _lens(model, prompts[i], replace(final, values=values), top_tokens)
    return pd.concat([tables[i] for i in range(len(prompts))], ignore_index=True)


def _lens(model: LanguageModel, prompt: TokenizedPrompt, state: State, top_tokens: int) -> pd.DataFrame:
    """Return the rows of one prompt from the state after each layer, values of shape (L, 1, D)."""
    ids = torch.full((len(state.values), 1), int(prompt.ids[-1]), device=model.device)  # (L, 1)
    with resume(model.network, state):  # all layers are skipped, so only the final normalisation and the vocabulary matrix run
        logits = at_least_float32(model.network(**forward_inputs(ids)).logits[:, 0])  # (L, V)
    log_probs = logits.cpu().double().log_softmax(-1)  # (L, V)
    labels = log_probs[:, torch.from_numpy(prompt.label_ids)]  # (L, C)
    top = log_probs.topk(min(top_tokens, log_probs.shape[-1]))  # (L, top_tokens) each
    return pd.DataFrame(
        {
            "prompt_id": prompt.prompt_id,
            "layer": range(len(logits)),
            "class_log_probs": labels.log_softmax(-1).tolist(),
            "label_probability": labels.exp().sum(-1).numpy(),
            "top_tokens": top.indices.tolist(),
            "top_log_probs": top.values.tolist(),
        }
    )
