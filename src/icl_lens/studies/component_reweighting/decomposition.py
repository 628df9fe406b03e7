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
from icl_lens.network.layers import attention_modules
from icl_lens.network.precision import at_least_float32, exact_products
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
    def of(cls, module: nn.Module, width: int, like: Tensor) -> _Norm:
        """Determine everything about a norm except its scale from its outputs for three known vectors."""
        signs = torch.ones(width, dtype=like.dtype, device=like.device)  # (d,)
        signs[1::2] = -1
        zero, ones, turns = (at_least_float32(module(x[None, None])[0, 0]) for x in (0 * signs, signs.abs(), signs))  # (d,)
        gain = (turns - zero) * at_least_float32(signs)
        centres = bool((ones - zero).abs().max() <= 1e-2 * gain.abs().max())
        return cls(module, gain, zero, centres)

    def back(self, directions: Tensor) -> Tensor:
        """Map directions in the norm's output space to its input space, without the scale, shape (..., d)."""
        pulled = directions * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centres else pulled

    def scale(self, before: Tensor, after: Tensor) -> Tensor:
        """Compute the scale, shape (B,), from rows of the input and of the output, shape (B, d) each."""
        x = before - before.mean(-1, keepdim=True) if self.centres else before
        unscaled = x * self.gain  # (B, d)
        return ((after - self.shift) * unscaled).sum(-1) / (unscaled * unscaled).sum(-1)


@dataclass(frozen=True)
class _Layer:
    """Modules through which a layer writes to the residual stream.

    Attributes:
        projection: Output projection of the attention, a Linear or a Conv1D.
        norm: Norm between the projection and the residual stream, if there is one.
        mlp: Module that writes the rest of the output of the layer.
    """

    projection: nn.Module
    norm: _Norm | None
    mlp: nn.Module


@dataclass
class Read:
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
        with decomposer.reading(places) as read:
            network(**batch.inputs())
        parts, logits = decomposer.split(read, batch.label_ids)

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
        self.count, self.heads = shape.num_hidden_layers, shape.num_attention_heads
        self._unembedding = network.get_output_embeddings()
        self._found: dict[tuple[int, ...], _Directions] = {}
        self._find()
        self._check()

    def parts(self) -> pd.DataFrame:
        """List the parts; see :func:`parts`."""
        return parts(self.count, self.heads)

    @contextmanager
    def reading(self, places: Tensor) -> Iterator[Read]:
        """Record one position per prompt during the forward passes in the context; the last pass is kept.

        Args:
            places: Indices among the query positions of the pass, shape (B,).
        """
        read = Read()
        rows = torch.arange(len(places), device=places.device)  # (B,)

        def taken(tensor: Tensor) -> Tensor:
            # Some families flatten batch and positions before an MLP.
            return at_least_float32(tensor.reshape(len(places), -1, tensor.shape[-1])[rows, places])  # (B, d)

        def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
            read.embedding = taken(_given(args, kwargs))

        def values(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple) -> None:
                read.values[layer] = taken(args[0])

            return keep

        def normed(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
                read.normed[layer] = taken(args[0]), taken(output)

            return keep

        def mlp(layer: int) -> Any:
            def keep(module: nn.Module, args: tuple, output: Any) -> None:
                read.mlps[layer] = taken(_first(output))

            return keep

        def end(module: nn.Module, args: tuple, output: Tensor) -> None:
            read.residual, read.final = taken(args[0]), taken(output)

        handles = [
            self._blocks[0].register_forward_pre_hook(begin, with_kwargs=True),
            self._final.module.register_forward_hook(end),
        ]
        for number, layer in enumerate(self._layers):
            handles.append(layer.projection.register_forward_pre_hook(values(number)))
            handles.append(layer.mlp.register_forward_hook(mlp(number)))
            if layer.norm:
                handles.append(layer.norm.module.register_forward_hook(normed(number)))
        try:
            yield read
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def split(self, read: Read, label_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of each part over the label words, and the model's own logits.

        Args:
            read: Recorded activations.
            label_ids: Token id of each class, shape (B, C).

        Returns:
            g, shape (B, K, C), in the order of :func:`parts`, and the logits before any soft-capping, shape (B, C). The dtype
            is at least float32.
        """
        wanted = [tuple(ids) for ids in label_ids.tolist()]
        found = [torch.empty(0)] * len(wanted)
        logits = [torch.empty(0)] * len(wanted)
        for ids in dict.fromkeys(wanted):
            places = [place for place, other in enumerate(wanted) if other == ids]
            g, own = self._split(read, torch.tensor(places, device=label_ids.device), self._directions(ids))
            for place, one, other in zip(places, g, own, strict=True):
                found[place], logits[place] = one, other
        return torch.stack(found), torch.stack(logits)

    def _split(self, read: Read, rows: Tensor, along: _Directions) -> tuple[Tensor, Tensor]:
        scale = self._final.scale(read.residual[rows], read.final[rows])[:, None]  # (B, 1)
        found = [(scale * (read.embedding[rows] @ along.residual.T))[:, None]]  # (B, 1, C)
        constant = along.constant.expand(len(rows), -1)  # (B, C)
        for number, layer in enumerate(self._layers):
            inner = scale
            if layer.norm:
                inner = scale * layer.norm.scale(*(x[rows] for x in read.normed[number]))[:, None]  # (B, 1)
                constant = constant + scale * along.shifts[number]
            constant = constant + inner * along.biases[number]
            z = read.values[number][rows].view(len(rows), self.heads, -1)  # (B, H, d_v)
            found.append(inner[:, None] * torch.einsum("bhd,chd->bhc", z, along.heads[number]))  # (B, H, C)
            found.append((scale * (read.mlps[number][rows] @ along.residual.T))[:, None])  # (B, 1, C)
        found.append(constant[:, None])
        own = read.final[rows] @ along.rows.T + along.bias  # (B, C)
        return torch.cat(found, dim=1), own

    def _directions(self, ids: tuple[int, ...]) -> _Directions:
        if ids not in self._found:
            index = torch.tensor(ids, device=self._unembedding.weight.device)
            rows = at_least_float32(self._unembedding.weight[index])  # (C, d)
            bias = self._unembedding.bias
            outer = torch.zeros_like(rows[:, 0]) if bias is None else at_least_float32(bias[index])  # (C,)
            residual = self._final.back(rows)  # (C, d)
            heads, biases, shifts = [], [], []
            for layer in self._layers:
                inner = layer.norm.back(residual) if layer.norm else residual  # (C, d)
                weight = at_least_float32(layer.projection.weight)  # (d, H d_v), transposed for a Conv1D
                along = inner @ (weight.T if isinstance(layer.projection, Conv1D) else weight)  # (C, H d_v)
                heads.append(along.view(len(ids), self.heads, -1))  # (C, H, d_v)
                own = layer.projection.bias
                biases.append(torch.zeros_like(outer) if own is None else inner @ at_least_float32(own))
                shifts.append(residual @ layer.norm.shift if layer.norm else torch.zeros_like(outer))
            constant = rows @ self._final.shift + outer
            self._found[ids] = _Directions(rows, outer, residual, heads, biases, shifts, constant)
        return self._found[ids]

    def _find(self) -> None:
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
            raise self._refused("its layers or its unembedding are not where they are looked for")
        inside = {module for block in self._blocks for module in block.modules()}
        outside = [module for module in network.modules() if module not in inside]
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        projections: dict[nn.Module, nn.Module] = {}

        def watch(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            given, made = _given(args, kwargs), _first(output)
            if isinstance(given, Tensor) and isinstance(made, Tensor):
                seen[module] = given.detach(), made.detach()

        def last_product(attention: nn.Module) -> Any:
            def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
                projections[attention] = module
                seen[module] = args[0], output

            return keep

        watched = {*outside, *self._blocks, *(child for block in self._blocks for child in block.children())}
        handles = [module.register_forward_hook(watch, with_kwargs=True) for module in watched]
        for attention in attentions:
            for module in attention.modules():
                if isinstance(module, nn.Linear | Conv1D):
                    handles.append(module.register_forward_hook(last_product(attention)))
        try:
            network(**_probe(network))
        finally:
            for handle in handles:
                handle.remove()
        self._layers = [
            self._layer(block, attention, projections.get(attention), seen)
            for block, attention in zip(self._blocks, attentions, strict=True)
        ]
        last, read = seen[self._blocks[-1]][1], seen[self._unembedding][0]
        norms = [m for m in outside if m in seen and _same(seen[m][0], last) and _same(seen[m][1], read)]
        if not norms or list(norms[-1].children()):
            raise self._refused("no norm is found between its last layer and its unembedding")
        self._final = _Norm.of(norms[-1], last.shape[-1], last)

    def _layer(self, block: nn.Module, attention: nn.Module, projection: nn.Module | None, seen: dict) -> _Layer:
        given, made = seen[block]
        if attention not in seen or projection is None or not _same(seen[projection][1], seen[attention][1]):
            raise self._refused("its attention does not end with the projection of its heads")
        if seen[projection][0].shape[-1] % self.heads:
            raise self._refused("what its output projection reads does not divide into its heads")
        written = seen[attention][1]  # (1, T, d)
        children = [child for child in block.children() if child in seen and seen[child][1].numel() == made.numel()]
        behind = [child for child in children if child is not attention and _same(seen[child][0], written)]
        best: tuple[float, nn.Module, nn.Module] | None = None
        for first in (attention, *behind):
            for second in children:
                if second in (attention, first):
                    continue
                left = made - given - seen[first][1].view_as(made) - seen[second][1].view_as(made)  # (1, T, d)
                error = float(left.abs().max() / made.abs().max())
                if best is None or error < best[0]:
                    best = error, first, second
        if best is None or not best[0] <= _tolerance(self.network, 1e-4):
            raise self._refused("a layer adds more to the residual stream than its attention and its MLP")
        _, first, second = best
        # A dropout after attention is the identity here, so it is not treated as a norm.
        plain = first is attention or _same(seen[first][1], written)
        return _Layer(projection, None if plain else _Norm.of(first, made.shape[-1], made), second)

    def _check(self) -> None:
        """Check on a short input that the parts sum to the logits of the unembedding.

        Raises:
            InputError: The parts do not sum to the logits.
        """
        given = _probe(self.network)
        count, length = given["input_ids"].shape
        places = torch.tensor([length - 1, length - 3], device=given["input_ids"].device)  # (B,)
        ids = torch.arange(5, 10, device=places.device).expand(count, -1)  # (B, C)
        made = []
        handle = self._unembedding.register_forward_hook(lambda module, args, output: made.append(output))
        try:
            with self.reading(places) as read:
                self.network(**given)
        finally:
            handle.remove()
        g, own = self.split(read, ids)
        expected = at_least_float32(made[-1][torch.arange(count, device=places.device), places]).gather(1, ids)  # (B, C)
        for found in (g.sum(1), own):
            if not float((found - expected).abs().max()) <= _tolerance(self.network, 1e-4) * float(expected.abs().max()):
                raise self._refused("its embedding, heads and MLPs do not sum to its logits")

    def _refused(self, reason: str) -> InputError:
        return InputError(f"model family {self.network.config.model_type!r} cannot be decomposed: {reason}")


@dataclass(frozen=True)
class Decomposed:
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
) -> Decomposed:
    """Decompose prompts with one forward pass each; shared prefixes are read once.

    Args:
        model: Model with the network that the decomposer was built for.
        decomposer: The decomposer.
        prompts: Prompts with the same number of classes.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        with_attention: Whether to read attention as well. This requires demonstrations and a family whose attention can be
            read.

    Raises:
        InputError: The prompts differ in their number of classes, or attention is requested and a prompt has no demonstrations.
    """
    count, classes = len(prompts), len(prompts[0].label_ids)
    if any(len(p.label_ids) != classes for p in prompts):
        raise InputError("the prompts differ in the number of their label words; give one task")
    if with_attention:
        require_demonstrations(prompts)
    parts = torch.empty(count, len(decomposer.parts()), classes)
    logits = torch.empty(count, classes)
    attention, reconstructed = torch.zeros(2, count, decomposer.count, decomposer.heads)
    nothing = torch.empty(0, dtype=torch.int64, device=model.device)  # empty: skip the product with the vocabulary matrix
    for batch in shared_batches(model, prompts, batch_tokens):
        rows = record_rows(model.network, batch.last) if with_attention else nullcontext({})
        with decomposer.reading(batch.last - batch.start) as read, rows as weights_of:
            model.network(**batch.inputs(), logits_to_keep=nothing)
        g, own = decomposer.split(read, batch.label_ids)
        parts[batch.index], logits[batch.index] = g.cpu().float(), own.cpu().float()
        if not with_attention:
            continue
        weights = torch.stack([at_least_float32(weights_of[layer]) for layer in range(decomposer.count)], dim=1)
        weights = weights.cpu().numpy()  # (B, L, H, K)
        for row, place in enumerate(batch.index):
            prompt, own = prompts[place], weights[row][..., : len(prompts[place].ids)]  # (L, H, T)
            attention[place] = torch.from_numpy(own[..., prompt.anchors].sum(-1))
            reconstructed[place] = torch.from_numpy(_reconstructed(prompt, own, int(logits[place].argmax()), classes))
    return Decomposed(parts, logits, attention, reconstructed)


def _reconstructed(prompt: TokenizedPrompt, weights: np.ndarray, answer: int, classes: int) -> np.ndarray:
    """Compute whether each head reconstructs the answer, shape (L, H), from its attention row, shape (L, H, T).

    Position 0 is ignored.
    """
    largest = pooled(weights, places(prompt, drop_first=True))["max"]  # (L, H, D)
    shares = votes(largest.reshape(1, -1, largest.shape[-1]).astype(float), np.asarray(prompt.demo_labels)[None], classes)
    return agreement(shares, np.array([answer])).reshape(largest.shape[:2])


def _probe(network: PreTrainedModel) -> dict[str, Any]:
    """Return the arguments of a forward pass over two short inputs."""
    ids = torch.arange(1, 17, device=network.device).view(2, 8)  # (2, T)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def _tolerance(network: PreTrainedModel, exact: float) -> float:
    """Return the relative error that is accepted between a sum of parts and its target.

    The tolerance is larger in half precision, which rounds each addition. A missing part would still be detected: it causes an
    error of the size of the sum.
    """
    return exact if network.dtype in (torch.float32, torch.float64) else 0.05


def _given(args: tuple, kwargs: dict) -> Any:
    """Return the hidden states that were passed to a module."""
    return args[0] if args else kwargs.get("hidden_states")


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))
