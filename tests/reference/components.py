"""Reference implementation of components from the definition (Chang et al., EMNLP 2024), one prompt at a time.

It shares no code with the package. The paths of a family's layers and the formulas of its norms are written out. The output of
a single head is computed by running the output projection on its values, with the values of the other heads set to zero.
"""

from __future__ import annotations

import numpy as np
import torch

# model_type -> path of the layers, names of their attention, its output projection and their MLP, path of the final norm
PLACES = {
    "gpt2": ("transformer.h", "attn", "c_proj", "mlp", "transformer.ln_f"),
    "gptj": ("transformer.h", "attn", "out_proj", "mlp", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "attention", "dense", "mlp", "gpt_neox.final_layer_norm"),
    "llama": ("model.layers", "self_attn", "o_proj", "mlp", "model.norm"),
    "qwen2": ("model.layers", "self_attn", "o_proj", "mlp", "model.norm"),
    "gemma2": ("model.layers", "self_attn", "o_proj", "mlp", "model.norm"),
}


def component_logits(model, ids, label_ids) -> tuple[np.ndarray, np.ndarray]:
    """Compute the label logits of each part, shape (K, C), and of the model, shape (C,).

    The parts are the embedding; the heads and the MLP of each layer; and the constant.
    """
    family = model.config.model_type
    layers_at, attention_at, projection_at, mlp_at, norm_at = PLACES[family]
    layers = model.get_submodule(layers_at)
    states: dict[object, torch.Tensor] = {}

    def keep(name):
        def hook(module, args, output):
            states[name] = (args[0] if args else None, output[0] if isinstance(output, tuple) else output)

        return hook

    def entering(module, args, kwargs):
        states["x0"] = args[0] if args else kwargs["hidden_states"]

    handles = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
    for number, layer in enumerate(layers):
        attention = layer.get_submodule(attention_at)
        handles.append(attention.get_submodule(projection_at).register_forward_hook(keep((number, "attention"))))
        handles.append(layer.get_submodule(mlp_at).register_forward_hook(keep((number, "mlp"))))
        if family == "gemma2":
            handles.append(layer.post_attention_layernorm.register_forward_hook(keep((number, "after attention"))))
            handles.append(layer.post_feedforward_layernorm.register_forward_hook(keep((number, "after mlp"))))
    norm = model.get_submodule(norm_at)
    handles.append(norm.register_forward_hook(keep("final")))
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        residual = states["final"][0][0, -1]  # (d,)
        unembedding = model.get_output_embeddings()
        rows = unembedding.weight[label_ids]  # (C, d)

        def through_final(x):
            if family in ("gpt2", "gptj", "gpt_neox"):
                scale = torch.sqrt(residual.var(unbiased=False) + norm.eps)
                return rows @ (norm.weight * (x - x.mean()) / scale)
            gain = 1 + norm.weight if family == "gemma2" else norm.weight
            epsilon = norm.eps if family == "gemma2" else norm.variance_epsilon
            return rows @ (gain * x / torch.sqrt((residual**2).mean() + epsilon))

        found = [through_final(states["x0"][0, -1])]
        constant = torch.zeros(len(label_ids))
        if hasattr(norm, "bias"):
            constant = constant + rows @ norm.bias
        if unembedding.bias is not None:
            constant = constant + unembedding.bias[label_ids]
        heads = model.config.num_attention_heads
        for number, layer in enumerate(layers):
            projection = layer.get_submodule(attention_at).get_submodule(projection_at)
            values = states[number, "attention"][0][0, -1]  # (H d,)
            silence = projection(torch.zeros_like(values))  # the bias
            width = len(values) // heads

            def behind(x, number=number, layer=layer):
                if family != "gemma2":
                    return x
                inner = layer.post_attention_layernorm
                before = states[number, "after attention"][0][0, -1]
                return (1 + inner.weight) * x / torch.sqrt((before**2).mean() + inner.eps)

            for head in range(heads):
                alone = torch.zeros_like(values)
                alone[head * width : (head + 1) * width] = values[head * width : (head + 1) * width]
                found.append(through_final(behind(projection(alone) - silence)))
            constant = constant + through_final(behind(silence))
            found.append(through_final(states[number, "after mlp" if family == "gemma2" else "mlp"][1][0, -1]))
        found.append(constant)
        whole = unembedding(states["final"][1][0, -1])[label_ids]
    return torch.stack(found).double().numpy(), whole.double().numpy()


def reweighted(parts, gold, rate=0.05, l1=0.01, epochs=2000, patience=3, check=100, stops=True, rest=None):
    """Train the weights of parts (n, M, C) as in the released code.

    Returns:
        The clipped weights, and the number of epochs.
    """
    g, y = torch.tensor(np.asarray(parts), dtype=torch.float32), torch.tensor(gold)
    other = torch.zeros(g.shape[0], g.shape[2]) if rest is None else torch.tensor(np.asarray(rest), dtype=torch.float32)
    w = torch.ones(g.shape[1], requires_grad=True)
    optimiser = torch.optim.SGD([w], lr=rate)

    def logits():
        return (torch.clamp(w, 0, 1)[None, :, None] * g).sum(1) + other

    best, failed = float("inf"), 0
    for epoch in range(epochs):
        optimiser.zero_grad()
        entropy = torch.nn.functional.cross_entropy(logits(), y)
        (entropy + l1 * w.abs().sum()).backward()
        optimiser.step()
        if stops and epoch % check == 0 and bool((logits().argmax(-1) == y).all()):
            return w.detach().clamp(0, 1).numpy(), epoch + 1
        if entropy.item() >= best:
            failed += 1
            if stops and failed == patience:
                return w.detach().clamp(0, 1).numpy(), epoch + 1
        else:
            best = entropy.item()
    return w.detach().clamp(0, 1).numpy(), epochs


def calibrated(logits, gold, proper=False, rate=0.05, epochs=5000, patience=3, check=100):
    """Train the factor per class of Calib+, or one term per class on log-probabilities.

    Calib+ treats the products of factors and probabilities as logits.

    Returns:
        The weights, and the number of epochs.
    """
    x, y = torch.tensor(np.asarray(logits), dtype=torch.float32), torch.tensor(gold)
    p = torch.log_softmax(x, -1) if proper else torch.softmax(x, -1)
    w = (torch.zeros if proper else torch.ones)(x.shape[1]).requires_grad_()
    optimiser = torch.optim.SGD([w], lr=rate)

    def scores():
        return p + w if proper else p * w

    best, failed = float("inf"), 0
    for epoch in range(epochs):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores(), y)
        loss.backward()
        optimiser.step()
        if epoch % check == 0 and bool((scores().argmax(-1) == y).all()):
            return w.detach().numpy(), epoch + 1
        if loss.item() >= best:
            failed += 1
            if failed == patience:
                return w.detach().numpy(), epoch + 1
        else:
            best = loss.item()
    return w.detach().numpy(), epochs
