"""Check that a model's attention can be read and edited."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_lens.attention.block import block
from icl_lens.attention.kernels import edited
from icl_lens.attention.record import record
from icl_lens.network import model_cache, vocabulary
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layers import attention_modules, not_supported
from icl_lens.network.placement import device_of
from icl_lens.network.precision import exact_products


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def require_supported(network: PreTrainedModel) -> None:
    """Reject a model with attention that differs from :func:`icl_lens.attention.kernels.attend`, bypasses it, or takes no mask.

    A study must call this function before it opens a context manager of this package. The check needs no list of model
    families: it runs a short input through the model and compares the logits (only some of them, for speed).

    Raises:
        InputError: The model family is not supported. The message gives the reason.
    """
    ids = torch.arange(1, 9, device=device_of(network))[None]  # (1, 8)

    def logits() -> Tensor:
        with vocabulary.restrict_tokens(network, ids[0]):
            return network(**forward_inputs(ids)).logits.float()  # (1, 8, 8)

    called_layers: list[int] = []

    def record_layer(layer: int, weights: Tensor) -> Tensor:
        called_layers.append(layer)
        return weights

    layers = len(attention_modules(network))
    plain = logits()
    with edited(network, record_layer):
        explicit = logits()
    if not called_layers:
        raise not_supported(
            network,
            "its attention does not pass through transformers' attention interface, so its weights can be neither read nor "
            "edited",
        )
    # In half precision the two computations round differently. A missing term would change the logits by their own magnitude.
    tolerance = (1e-3 if network.dtype in (torch.float32, torch.float64) else 0.1) * plain.std()
    if called_layers != list(range(layers)) or (plain - explicit).abs().max() > tolerance:
        raise not_supported(
            network, "its attention is not plain softmax(QK)V (for example, it has attention sinks or two softmaxes)"
        )

    edges = torch.zeros(1, 8, 8, dtype=torch.bool, device=device_of(network))  # (1, Q, K)
    edges[0, 5, :5] = True
    with block(network, dict.fromkeys(range(layers), edges)), record(network) as weights:
        logits()
    if any(matrix[0, :, 5, :5].any() for matrix in weights.values()):
        raise not_supported(network, "its attention modules take no attention_mask, so no edge can be blocked")
