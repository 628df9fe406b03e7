"""Linear layers whose weights are stored in 4 or 8 bits and dequantised for each product.

They replace the layers of bitsandbytes for three reasons:

- The studies read weights, and the weight of a layer of bitsandbytes is a packed tensor.
- In 8 bits, a layer of bitsandbytes also quantises its inputs, except for some columns that depend on all prompts of a batch.
  The result for a prompt then depends on the other prompts.
- bitsandbytes has several kernels. Which one runs depends on the device and on the number of rows.

The results of the layers here are those of the dequantised weights, on each device. Only one dequantised weight exists at a
time.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_lens.errors import InputError

# On import, bitsandbytes recommends a package with further kernels, which are not used here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class QuantizedLinear(nn.Module):
    """A linear layer that stores its weight as bitsandbytes does, and dequantises it whenever the weight is read.

    It is not an ``nn.Linear``, because a change of a dequantised weight would be lost.

    Args:
        layer: A ``Linear4bit`` or ``Linear8bitLt`` of bitsandbytes with quantised weights.
        dtype: Number format of the dequantised weight.

    Raises:
        ValueError: The weights of the layer are not quantised.

    Attributes:
        in_features: Number of inputs, d.
        out_features: Number of outputs, o.
        bias: The bias, shape (o,), or None.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = dtype
        self.bias = layer.bias
        weight = layer.weight
        state = getattr(weight, "quant_state", None)
        if state is not None:
            statistics = state.as_dict()
        elif weight.dtype == torch.int8 and getattr(weight, "SCB", None) is not None:
            statistics = {"scale": weight.SCB}  # maximum of each row, shape (o,)
        else:
            raise ValueError("its weights are not quantised")
        self.bits = 8 if state is None else 4
        self.quantisation = statistics.get("quant_type", "int8")
        # Buffers move with the model from one device to another, and keep their number formats.
        self.register_buffer("packed", weight.data)  # (o d / 2, 1) in 4 bits, (o, d) in 8 bits
        self._tensors = [name for name, value in statistics.items() if isinstance(value, Tensor)]
        for name in self._tensors:
            self.register_buffer(name, statistics[name])
        self._constants = {name: value for name, value in statistics.items() if name not in self._tensors}

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, shape (o, d). It is computed each time."""
        from bitsandbytes import functional

        if self.bits == 8:
            return functional.int8_vectorwise_dequant(self.packed, self.scale).to(self.dtype)
        tensors = {name: getattr(self, name) for name in self._tensors}
        state = functional.QuantState.from_dict({**self._constants, **tensors}, self.packed.device)
        return functional.dequantize_4bit(self.packed, state).to(self.dtype)

    def dense(self) -> nn.Linear:
        """Return an ordinary linear layer with the dequantised weight."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        layer.bias = self.bias
        return layer.eval()

    def forward(self, states: Tensor) -> Tensor:
        """Return the product of the states, shape (..., d), with the weight, shape (..., o)."""
        return _Product.apply(states, self)

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.quantisation}"


class _Product(torch.autograd.Function):
    """The product with a dequantised weight. The backward pass dequantises it again, instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(states, layer.weight, layer.bias)  # (..., o)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight, None  # (..., d)


def replace_layers(network: PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
    """Replace the layers of bitsandbytes in a model, so that it is an ordinary model for transformers.

    See :func:`replace_linear`. The other weights are converted to ``dtype``, because transformers leaves them in the number
    format of the checkpoint.

    Args:
        network: A model that transformers loaded from a checkpoint of bitsandbytes.
        dtype: Number format of the dequantised weights and of the weights that are not quantised.

    Returns:
        The facts of the quantisation, for provenance: ``method``, ``version`` (of the package), ``bits`` and ``type``.

    Raises:
        InputError: A layer is not quantised, or none is.
    """
    facts = replace_linear(network, dtype)
    precise = set(network._keep_in_fp32_modules_strict or ())
    precise |= set(network._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if any(part in name for part in precise) else dtype)
    network.hf_quantizer.remove_quantization_config(network)
    return facts


def is_bitsandbytes(network: nn.Module) -> bool:
    """Return whether a model has layers of bitsandbytes. This does not import bitsandbytes."""
    return any(type(module).__module__.startswith("bitsandbytes.") for module in network.modules())


def replace_linear(network: PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
    """Replace the linear layers of bitsandbytes in a model, and change nothing else.

    An unembedding that is quantised is dequantised once, because the studies compute the logits of single tokens from its rows.

    Args:
        network: A model with layers of bitsandbytes.
        dtype: Number format of the dequantised weights.

    Returns:
        The facts of the quantisation, see :func:`replace_layers`.

    Raises:
        InputError: A layer is not quantised, or none is.
    """
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, kinds):
            try:
                _replace(network, name, QuantizedLinear(layer, dtype))
            except ValueError as error:
                raise InputError(f"config.json describes quantised weights, but those of {name} are not quantised") from error
    replaced = {(layer.bits, layer.quantisation) for layer in network.modules() if isinstance(layer, QuantizedLinear)}
    if not replaced:
        raise InputError("config.json describes quantised weights, but no layer is quantised")
    outputs = network.get_output_embeddings()
    make_dense(network, [name for name, layer in network.named_modules() if layer is outputs])
    ((bits, kind), *_) = sorted(replaced)
    return {"method": "bitsandbytes", "version": bitsandbytes.__version__, "bits": bits, "type": kind}


def make_dense(network: nn.Module, names: list[str]) -> None:
    """Replace the named layers by ordinary linear layers with dequantised weights. Other modules are unchanged."""
    modules = dict(network.named_modules())
    for name in names:
        if isinstance(modules.get(name), QuantizedLinear):
            _replace(network, name, modules[name].dense())


def parameters(network: nn.Module) -> int:
    """Return the number of weights of a model, whatever their format."""
    packed = sum(m.in_features * m.out_features for m in network.modules() if isinstance(m, QuantizedLinear))
    return packed + sum(parameter.numel() for parameter in network.parameters())


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    old = network.get_submodule(name)
    network.set_submodule(name, layer)
    hook = getattr(old, "_hf_hook", None)  # accelerate moves the inputs of a layer to its device
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(layer, hook)
