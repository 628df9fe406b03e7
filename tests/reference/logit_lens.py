"""Reference implementation of the logit lens: the final normalisation and the vocabulary matrix, applied to each hidden state.

It shares no code with the package: it uses the hidden states that transformers returns, and the modules of each family by name.
"""

from __future__ import annotations

import torch

NORMS = (
    "transformer.ln_f",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "model.language_model.norm",
    "model.norm",
)


def logit_lens(model, ids) -> torch.Tensor:
    """Compute the logits after each layer at the last position, shape (L, V)."""
    modules = dict(model.named_modules())
    norm = next(modules[name] for name in NORMS if name in modules)
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        # The first hidden state is the embedding, and the last one is normalised already.
        states = torch.stack([state[0, -1] for state in output.hidden_states[1:-1]])  # (L - 1, D)
        logits = model.get_output_embeddings()(norm(states[:, None]))[:, 0]  # (L - 1, V)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return torch.cat([logits, output.logits[:, -1]])
