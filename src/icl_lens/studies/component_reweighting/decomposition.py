"""Decomposition of the label logits at the last position into a sum over attention heads, MLPs and other parts.

The method is that of *When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024), section 2. The residual stream at
the last position is the sum of the embedding and of the outputs of each head h and each MLP of each layer l,

    x_L = x_0 + sum_{l,h} W_O^{(l,h)} z_{l,h} + sum_l b_O^{(l)} + sum_l mlp_l

with z_{l,h} the attention-weighted values of query head h. The scale of the final norm is frozen at its value for the full x_L.
The norm is then affine, and so is the unembedding U, so each part has its own logits over the label words,

    g_j = U_labels (gain * centred(x_j)) / scale(x_L),    logits_labels = sum_j g_j

For a LayerNorm, ``centred`` subtracts the mean; for an RMSNorm it is the identity. The parts are the embedding, the heads, the
MLPs (with their biases) and one constant. The constant collects the output biases of attention, the shifts of norms and the
bias of the unembedding. Some families (Gemma, OLMo 2) have a norm between attention or MLP and the residual stream. In these
families, heads pass through that norm at its own frozen scale, and the part of an MLP is the output of its norm. Logits are
compared before soft-capping.

The code contains no list of model families. It runs a short input through the model, records which module writes which part,
and rejects a model if its parts do not sum to its logits. Only the last position is read. Each part costs one dot product per
label word with a direction that is computed once.

The same forward passes give two measures of attention: how much attention each head pays to label words, and whether its
attention to demonstrations reconstructs the model's answer as kernel regression would (Han et al., TMLR 2025, section 5.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icl_lens.attention.record import record_rows
from icl_lens.errors import InputError
from icl_lens.models.batching import shared_batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.layers import attention_modules
from icl_lens.network.placement import device_of, logits_to_keep, read_parameter
from icl_lens.network.precision import at_least_float32, exact_products
from icl_lens.network.quantized import QuantizedLinear
from icl_lens.prompts.demonstration_places import places, pooled, require_demonstrations
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.weighted_votes import agreement, votes

EMBEDDING, HEAD, MLP, CONSTANT = KINDS = ("embedding", "head", "mlp", "constant")
"""Kinds of parts; :func:`parts` defines their order."""


def parts(layers: int, heads: int) -> pd.DataFrame:
    """List the parts of a model in the order of every array in this module.

    The order is: embedding; the heads and then the MLP of each layer in turn; constant.

    Returns:
        One row per part, 2 + L (H + 1) in total: kind, layer and head. Layers and heads count from 0; -1 means none.
    """
    rows = [(EMBEDDING, -1, -1)]
    for layer in range(layers):
        rows += [(HEAD, layer, head) for head in range(heads)]
        rows.append((MLP, layer, -1))
    return pd.DataFrame([*rows, (CONSTANT, -1, -1)], columns=["kind", "layer", "head"])


def heads_and_mlps(parts: pd.DataFrame) -> np.ndarray:
    """Return the indices of heads and MLPs among the parts, shape (M,). Only these parts are re-weighted."""
    return np.flatnonzero(parts["kind"].isin([HEAD, MLP]))


@dataclass(frozen=True)
class _Norm:
    """Norm that is affine once its scale is known: y = scale gain * (x, minus its mean if the norm centres) + shift.

    Attributes:
        module: The norm.
        gain: Gain up to a factor that the scale absorbs, shape (d,).
        shift: Shift, shape (d,).
        centres: Whether the norm subtracts the mean.
    """

    module: nn.Module
    gain: Tensor
    shift: Tensor
    centres: bool

    @classmethod
    def from_module(cls, module: nn.Module, width: int, example: Tensor) -> _Norm:
        """Determine everything about a norm except its scale from its outputs for three known vectors."""
        signs = torch.ones(width, dtype=example.dtype, device=example.device)  # (d,)
        signs[1::2] = -1
        zero, ones, alternating = (
            at_least_float32(module(x[None, None])[0, 0]).to(example.device) for x in (0 * signs, signs.abs(), signs)
        )  # (d,)
        gain = (alternating - zero) * at_least_float32(signs)
        centres = bool((ones - zero).abs().max() <= 1e-2 * gain.abs().max())
        return cls(module, gain, zero, centres)

    def pull_back(self, directions: Tensor) -> Tensor:
        """Map directions in the norm's output space to its input space, without the scale, shape (..., d)."""
        pulled = directions * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centres else pulled

    def scale(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Compute the scale, shape (B,), from rows of the input and of the output, shape (B, d) each."""
        x = inputs - inputs.mean(-1, keepdim=True) if self.centres else inputs
        unscaled = x * self.gain  # (B, d)
        return ((outputs - self.shift) * unscaled).sum(-1) / (unscaled * unscaled).sum(-1)


@dataclass(frozen=True)
class _Layer:
    """Modules through which a layer writes to the residual stream.

    Attributes:
        projection: Output projection of the attention, a Linear, a QuantizedLinear or a Conv1D.
        norm: Norm between the projection and the residual stream, if there is one.
        mlp: Module that writes the rest of the output of the layer.
    """

    projection: nn.Module
    norm: _Norm | None
    mlp: nn.Module


@dataclass
class Activations:
    """Activations at one position of each of the B prompts of a forward pass.

    Attributes:
        embedding: x_0, shape (B, d).
        values: z of each layer, with all heads concatenated, shape (B, H d_v).
        normed: Input and output of the norm after the attention of each layer that has one, shape (B, d) each.
        mlps: Output of each layer's MLP, shape (B, d).
        residual: x_L, shape (B, d).
        final: Output of the final norm, shape (B, d).
    """

    embedding: Tensor | None = None
    values: dict[int, Tensor] = field(default_factory=dict)
    normed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mlps: dict[int, Tensor] = field(default_factory=dict)
    residual: Tensor | None = None
    final: Tensor | None = None


@dataclass(frozen=True)
class _Directions:
    """Vectors that activations are multiplied with to give logits of C label words, without scales.

    Attributes:
        rows: Rows of the unembedding, shape (C, d).
        bias: Bias of the unembedding, shape (C,).
        residual: Directions for what is written to the residual stream, shape (C, d).
        heads: Directions for z of each layer, shape (C, H, d_v).
        biases: Projection of each layer's attention output bias, shape (C,).
        shifts: Projection of the shift of each layer's norm after attention, shape (C,).
        constant: Contribution of the final norm's shift and of the unembedding's bias, shape (C,).
    """

    rows: Tensor
    bias: Tensor
    residual: Tensor
    heads: list[Tensor]
    biases: list[Tensor]
    shifts: list[Tensor]
    constant: Tensor


class Decomposer:
    """Decompose a model's label logits at the last position.

        decomposer = Decomposer(network)
        with decomposer.record(positions) as activations:
            network(**batch.inputs())
        parts, logits = decomposer.split(activations, batch.label_ids)

    Args:
        network: Any decoder-only model with frozen parameters.

    Raises:
        InputError: The model family cannot be decomposed; the message gives the reason.
    """

    @exact_products()
    @torch.no_grad()
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        self._attentions = attention_modules(network)  # raises if there are none
        shape = network.config.get_text_config()
        self.layers, self.heads = shape.num_hidden_layers, shape.num_attention_heads
        self._unembedding = network.get_output_embeddings()
        self._cached_directions: dict[tuple[int, ...], _Directions] = {}
        self._find_modules()
        self._check()

    def parts(self) -> pd.DataFrame:
        """List the parts; see :func:`parts`."""
        return parts(self.layers, self.heads)

    @contextmanager
    def record(self, positions: Tensor) -> Iterator[Activations]:
        """Record one position per prompt during the forward passes in the context; the last pass is kept.

        Args:
            positions: Indices among the query positions of the pass, shape (B,).
        """
        activations = Activations()
        rows = torch.arange(len(positions), device=positions.device)  # (B,)

        def select(tensor: Tensor) -> Tensor:
            # Some families flatten batch and positions before an MLP. A layer may be on another device than the positions.
            states = tensor.reshape(len(positions), -1, tensor.shape[-1])  # (B, T, d)
            index = rows.to(tensor.device), positions.to(tensor.device)
            return at_least_float32(states[index]).to(positions.device)  # (B, d)

        def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
            activations.embedding = select(_input_states(args, kwargs))

        def values(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple) -> None:
                activations.values[layer] = select(args[0])

            return keep

        def normed(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
                activations.normed[layer] = select(args[0]), select(output)

            return keep

        def mlp(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple, output: Any) -> None:
                activations.mlps[layer] = select(_first_output(output))

            return keep

        def end(module: nn.Module, args: tuple, output: Tensor) -> None:
            activations.residual, activations.final = select(args[0]), select(output)

        handles = [
            self._blocks[0].register_forward_pre_hook(begin, with_kwargs=True),
            self._final.module.register_forward_hook(end),
        ]
        for index, layer in enumerate(self._layers):
            handles.append(layer.projection.register_forward_pre_hook(values(index)))
            handles.append(layer.mlp.register_forward_hook(mlp(index)))
            if layer.norm:
                handles.append(layer.norm.module.register_forward_hook(normed(index)))
        try:
            yield activations
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def split(self, activations: Activations, label_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of each part over the label words, and the model's own logits.

        Args:
            activations: Recorded activations.
            label_ids: Token id of each class, shape (B, C).

        Returns:
            g, shape (B, K, C), in the order of :func:`parts`, and the logits before any soft-capping, shape (B, C). The dtype
            is at least float32.
        """
        requested = [tuple(ids) for ids in label_ids.tolist()]
        part_logits = [torch.empty(0)] * len(requested)
        logits = [torch.empty(0)] * len(requested)
        for ids in dict.fromkeys(requested):
            rows = [row for row, other in enumerate(requested) if other == ids]
            g, model_logits = self._split(activations, torch.tensor(rows, device=label_ids.device), self._directions(ids))
            for row, one, other in zip(rows, g, model_logits, strict=True):
                part_logits[row], logits[row] = one, other
        return torch.stack(part_logits), torch.stack(logits)

    def _split(self, activations: Activations, rows: Tensor, directions: _Directions) -> tuple[Tensor, Tensor]:
        scale = self._final.scale(activations.residual[rows], activations.final[rows])[:, None]  # (B, 1)
        logits = [(scale * (activations.embedding[rows] @ directions.residual.T))[:, None]]  # (B, 1, C)
        constant = directions.constant.expand(len(rows), -1)  # (B, C)
        for index, layer in enumerate(self._layers):
            layer_scale = scale
            if layer.norm:
                layer_scale = scale * layer.norm.scale(*(x[rows] for x in activations.normed[index]))[:, None]  # (B, 1)
                constant = constant + scale * directions.shifts[index]
            constant = constant + layer_scale * directions.biases[index]
            z = activations.values[index][rows].view(len(rows), self.heads, -1)  # (B, H, d_v)
            logits.append(layer_scale[:, None] * torch.einsum("bhd,chd->bhc", z, directions.heads[index]))  # (B, H, C)
            logits.append((scale * (activations.mlps[index][rows] @ directions.residual.T))[:, None])  # (B, 1, C)
        logits.append(constant[:, None])
        model_logits = activations.final[rows] @ directions.rows.T + directions.bias  # (B, C)
        return torch.cat(logits, dim=1), model_logits

    def _directions(self, ids: tuple[int, ...]) -> _Directions:
        if ids not in self._cached_directions:
            rows = self._read(self._unembedding, "weight", ids)  # (C, d)
            bias = self._read(self._unembedding, "bias", ids)  # (C,)
            label_bias = torch.zeros_like(rows[:, 0]) if bias is None else bias  # (C,)
            residual = self._final.pull_back(rows)  # (C, d)
            heads, biases, shifts = [], [], []
            for layer in self._layers:
                direction = layer.norm.pull_back(residual) if layer.norm else residual  # (C, d)
                weight = self._read(layer.projection, "weight")  # (d, H d_v), transposed for a Conv1D
                projected = direction @ (weight.T if isinstance(layer.projection, Conv1D) else weight)  # (C, H d_v)
                heads.append(projected.view(len(ids), self.heads, -1))  # (C, H, d_v)
                output_bias = self._read(layer.projection, "bias")  # (d,)
                biases.append(torch.zeros_like(label_bias) if output_bias is None else direction @ output_bias)
                shifts.append(residual @ layer.norm.shift if layer.norm else torch.zeros_like(label_bias))
            constant = rows @ self._final.shift + label_bias
            self._cached_directions[ids] = _Directions(rows, label_bias, residual, heads, biases, shifts, constant)
        return self._cached_directions[ids]

    def _read(self, module: nn.Module, name: str, ids: Sequence[int] | None = None) -> Tensor | None:
        """Read a parameter, or some of its rows, in at least float32 on the device of the model's inputs."""
        parameter = read_parameter(module, name)
        if parameter is None:
            return None
        if ids is not None:
            parameter = parameter[torch.tensor(ids, device=parameter.device)]
        return at_least_float32(parameter.to(device_of(self.network)))

    def _find_modules(self) -> None:
        """Find the modules that write the parts, by recording one forward pass of a short input.

        Raises:
            InputError: Attention and one other module do not account for everything that a layer writes, or there is no final
                norm.
        """
        network = self.network
        attentions = self._attentions
        names = {module: name for name, module in network.named_modules()}
        self._blocks = [network.get_submodule(names[module].rpartition(".")[0]) for module in attentions]
        if len(set(self._blocks)) < len(self._blocks) or not isinstance(self._unembedding, nn.Linear):
            raise self._error("the attention modules share a layer, or the unembedding is not a linear layer")
        in_blocks = {module for block in self._blocks for module in block.modules()}
        outside_blocks = [module for module in network.modules() if module not in in_blocks]
        recorded: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # on the device of the model's inputs
        device = device_of(network)
        projections: dict[nn.Module, nn.Module] = {}

        def record(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs, outputs = _input_states(args, kwargs), _first_output(output)
            if isinstance(inputs, Tensor) and isinstance(outputs, Tensor):
                recorded[module] = inputs.detach().to(device), outputs.detach().to(device)

        def last_linear(attention: nn.Module) -> Any:
            def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
                projections[attention] = module
                recorded[module] = args[0].to(device), output.to(device)

            return hook

        hooked = {*outside_blocks, *self._blocks, *(child for block in self._blocks for child in block.children())}
        handles = [module.register_forward_hook(record, with_kwargs=True) for module in hooked]
        for attention in attentions:
            for module in attention.modules():
                if isinstance(module, nn.Linear | Conv1D | QuantizedLinear):
                    handles.append(module.register_forward_hook(last_linear(attention)))
        try:
            network(**_short_input(network))
        finally:
            for handle in handles:
                handle.remove()
        self._layers = [
            self._layer(block, attention, projections.get(attention), recorded)
            for block, attention in zip(self._blocks, attentions, strict=True)
        ]
        last_states, unembedding_input = recorded[self._blocks[-1]][1], recorded[self._unembedding][0]
        norms = [
            m
            for m in outside_blocks
            if m in recorded and _same_values(recorded[m][0], last_states) and _same_values(recorded[m][1], unembedding_input)
        ]
        if not norms or list(norms[-1].children()):
            raise self._error("no norm was found between the last layer and the unembedding")
        self._final = _Norm.from_module(norms[-1], last_states.shape[-1], last_states)

    def _layer(self, block: nn.Module, attention: nn.Module, projection: nn.Module | None, recorded: dict) -> _Layer:
        inputs, outputs = recorded[block]
        if attention not in recorded or projection is None or not _same_values(recorded[projection][1], recorded[attention][1]):
            raise self._error("attention does not end with a linear output projection")
        if recorded[projection][0].shape[-1] % self.heads:
            raise self._error("the input width of the output projection is not a multiple of the number of heads")
        attention_output = recorded[attention][1]  # (1, T, d)
        children = [child for child in block.children() if child in recorded and recorded[child][1].numel() == outputs.numel()]
        after_attention = [
            child for child in children if child is not attention and _same_values(recorded[child][0], attention_output)
        ]
        best: tuple[float, nn.Module, nn.Module] | None = None
        for first in (attention, *after_attention):
            for second in children:
                if second in (attention, first):
                    continue
                remainder = (
                    outputs - inputs - recorded[first][1].view_as(outputs) - recorded[second][1].view_as(outputs)
                )  # (1, T, d)
                error = float(remainder.abs().max() / outputs.abs().max())
                if best is None or error < best[0]:
                    best = error, first, second
        if best is None or not best[0] <= _tolerance(self.network, 1e-4):
            raise self._error("a layer adds more to the residual stream than the outputs of its attention and its MLP")
        _, first, second = best
        # A dropout after attention is the identity here, so it is not treated as a norm.
        without_norm = first is attention or _same_values(recorded[first][1], attention_output)
        return _Layer(projection, None if without_norm else _Norm.from_module(first, outputs.shape[-1], outputs), second)

    def _check(self) -> None:
        """Check on a short input that the parts sum to the logits of the unembedding.

        Raises:
            InputError: The parts do not sum to the logits.
        """
        inputs = _short_input(self.network)
        count, length = inputs["input_ids"].shape
        positions = torch.tensor([length - 1, length - 3], device=inputs["input_ids"].device)  # (B,)
        ids = torch.arange(5, 10, device=positions.device).expand(count, -1)  # (B, C)
        outputs = []
        handle = self._unembedding.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            with self.record(positions) as activations:
                self.network(**inputs)
        finally:
            handle.remove()
        g, model_logits = self.split(activations, ids)
        logits = outputs[-1].to(positions.device)[torch.arange(count, device=positions.device), positions]  # (B, V)
        expected = at_least_float32(logits).gather(1, ids)  # (B, C)
        for logits in (g.sum(1), model_logits):
            if not float((logits - expected).abs().max()) <= _tolerance(self.network, 1e-4) * float(expected.abs().max()):
                raise self._error("the embedding, heads and MLPs do not sum to the logits")

    def _error(self, reason: str) -> InputError:
        return InputError(f"model family {self.network.config.model_type!r} cannot be decomposed: {reason}")


@dataclass(frozen=True)
class Decomposition:
    """Decomposition of N prompts.

    Attributes:
        parts: g, shape (N, K, C), in the order of :func:`icl_lens.studies.component_reweighting.decomposition.parts`.
        logits: The model's own logits over the label words, before any soft-capping, shape (N, C).
        attention: Total attention of each head from the last position to all label words, shape (N, L, H). Zeros if attention
            was not requested.
        reconstructed: Whether a head's attention to demonstrations reconstructs the model's answer, shape (N, L, H). The
            reconstructed class is argmax_c sum_i a_i 1[y_i = c] with a_i the largest weight in demonstration i. The value is 1
            or 0; if several classes have equal sums, it is the probability that a fair draw among them gives the answer. Zeros
            if attention was not requested.
    """

    parts: Tensor
    logits: Tensor
    attention: Tensor
    reconstructed: Tensor


@torch.inference_mode()
def decompose(
    model: LanguageModel,
    decomposer: Decomposer,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    with_attention: bool = True,
) -> Decomposition:
    """Decompose prompts with one forward pass each; shared prefixes are read once.

    Args:
        model: Model with the network that the decomposer was built for.
        decomposer: The decomposer.
        prompts: Prompts with the same number of classes.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        with_attention: Whether to read attention as well. This requires demonstrations and a family whose attention can be
            read.

    Raises:
        InputError: The prompts differ in their number of classes, classes are predicted by whole label words, or attention is
            requested and a prompt has no demonstrations.
    """
    if any(p.label_words for p in prompts):
        raise InputError(
            "components cannot be computed with label_score: whole, because only the logit of one token is a sum over "
            "components; set label_score to first"
        )
    count, classes = len(prompts), len(prompts[0].label_ids)
    if any(len(p.label_ids) != classes for p in prompts):
        raise InputError("the prompts have different numbers of label words; use prompts of one task")
    if with_attention:
        require_demonstrations(prompts)
    parts = torch.empty(count, len(decomposer.parts()), classes)
    logits = torch.empty(count, classes)
    attention, reconstructed = torch.zeros(2, count, decomposer.layers, decomposer.heads)
    for batch in shared_batches(model, prompts, batch_tokens):
        recording = record_rows(model.network, batch.last) if with_attention else nullcontext({})
        with decomposer.record(batch.last - batch.start) as activations, recording as recorded:
            model.network(**batch.inputs(), logits_to_keep=logits_to_keep(model.network))
        g, model_logits = decomposer.split(activations, batch.label_ids)
        parts[batch.index], logits[batch.index] = g.cpu().float(), model_logits.cpu().float()
        if not with_attention:
            continue
        weights = torch.stack([at_least_float32(recorded[layer]) for layer in range(decomposer.layers)], dim=1)
        weights = weights.cpu().numpy()  # (B, L, H, K)
        for row, index in enumerate(batch.index):
            prompt, prompt_weights = prompts[index], weights[row][..., : len(prompts[index].ids)]  # (L, H, T)
            attention[index] = torch.from_numpy(prompt_weights[..., prompt.anchors].sum(-1))
            reconstructed[index] = torch.from_numpy(_reconstructs(prompt, prompt_weights, int(logits[index].argmax()), classes))
    return Decomposition(parts, logits, attention, reconstructed)


def _reconstructs(prompt: TokenizedPrompt, weights: np.ndarray, answer: int, classes: int) -> np.ndarray:
    """Compute whether each head reconstructs the answer, shape (L, H), from its attention row, shape (L, H, T).

    Position 0 is ignored.
    """
    largest = pooled(weights, places(prompt, drop_first=True))["max"]  # (L, H, D)
    shares = votes(largest.reshape(1, -1, largest.shape[-1]).astype(float), np.asarray(prompt.demo_labels)[None], classes)
    return agreement(shares, np.array([answer])).reshape(largest.shape[:2])


def _short_input(network: PreTrainedModel) -> dict[str, Any]:
    """Return the arguments of a forward pass over two short inputs."""
    ids = torch.arange(1, 17, device=device_of(network)).view(2, 8)  # (2, T)
    return forward_inputs(ids)


def _tolerance(network: PreTrainedModel, exact: float) -> float:
    """Return the relative error that is accepted between a sum of parts and its target.

    The tolerance is larger in half precision, which rounds each addition. A missing part would still be detected: it causes an
    error of the size of the sum.
    """
    return exact if network.dtype in (torch.float32, torch.float64) else 0.05


def _input_states(args: tuple, kwargs: dict) -> Any:
    """Return the hidden states that were passed to a module."""
    return args[0] if args else kwargs.get("hidden_states")


def _first_output(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _same_values(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))
