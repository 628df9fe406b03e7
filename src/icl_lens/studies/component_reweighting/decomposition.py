"""What each head and each MLP says: the label logits of the last position as a sum of parts.

*When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024), section 2. The residual stream at the last position is
what the embedding and every head h and MLP of every layer l have written,

    x_L = x_0 + sum_{l,h} W_O^{(l,h)} z_{l,h} + sum_l b_O^{(l)} + sum_l mlp_l

with z_{l,h} the attention-weighted values of query head h. The final norm is held at the scale that it has on the whole x_L;
then it is affine, and so is the unembedding U, so each part has logits of its own over the label words,

    g_j = U_labels (gain * centred(x_j)) / scale(x_L),    logits_labels = sum_j g_j

(centred: less its mean where the norm is a LayerNorm, as it is where it is an RMSNorm). The parts are the embedding, the heads,
the MLPs (their biases belong to them), and one constant: output biases of attention, shifts of norms and the bias of the
unembedding. Where a family has a norm between attention or MLP and the residual stream (Gemma, OLMo 2), heads are pushed
through it at its own frozen scale, and an MLP's part is what leaves it. Logits are compared before they are soft-capped.

Nothing is known of families here: a short input is run through the model, it is watched which module writes what, and a model
whose parts do not sum to its logits is refused. Only the last position is read; a part costs one product of as many numbers as
it has with a direction per label word, made once.

From the same passes come two readings of attention: what each head pays to label words, and whether what it pays to
demonstrations reconstructs the model's answer as kernel regression would (Han et al., TMLR 2025, section 5.2).
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
"""What a part can be; :func:`parts` says in which order they come."""


def parts(layers: int, heads: int) -> pd.DataFrame:
    """The parts of a model in the order of every array here: embedding; layer by layer its heads, then its MLP; constant.

    Returns:
        One row a part, 2 + L (H + 1) of them: kind, layer and head, both from 0, -1 where there is none.
    """
    rows = [(EMBEDDING, -1, -1)]
    for layer in range(layers):
        rows += [(HEAD, layer, head) for head in range(heads)]
        rows.append((MLP, layer, -1))
    return pd.DataFrame([*rows, (CONSTANT, -1, -1)], columns=["kind", "layer", "head"])


def heads_and_mlps(parts: pd.DataFrame) -> np.ndarray:
    """The places of heads and MLPs among the parts, shape (M,): only these are re-weighted."""
    return np.flatnonzero(parts["kind"].isin([HEAD, MLP]))


@dataclass(frozen=True)
class _Norm:
    """A norm that is affine once its scale is known: y = scale gain * (x, less its mean where it centres) + shift.

    Attributes:
        module: The norm.
        gain: Up to a factor that the scale takes up, shape (d,).
        shift: Shape (d,).
        centres: Whether it takes the mean away.
    """

    module: nn.Module
    gain: Tensor
    shift: Tensor
    centres: bool

    @classmethod
    def of(cls, module: nn.Module, width: int, like: Tensor) -> _Norm:
        """What a module does to three known vectors tells all of a norm but its scale."""
        signs = torch.ones(width, dtype=like.dtype, device=like.device)  # (d,)
        signs[1::2] = -1
        zero, ones, turns = (at_least_float32(module(x[None, None])[0, 0]) for x in (0 * signs, signs.abs(), signs))  # (d,)
        gain = (turns - zero) * at_least_float32(signs)
        centres = bool((ones - zero).abs().max() <= 1e-2 * gain.abs().max())
        return cls(module, gain, zero, centres)

    def back(self, directions: Tensor) -> Tensor:
        """Directions to multiply the norm's input with, scale left out, for those of its output, shape (..., d)."""
        pulled = directions * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centres else pulled

    def scale(self, before: Tensor, after: Tensor) -> Tensor:
        """The scale it had, from rows of its input and output, shape (B, d) each; shape (B,)."""
        x = before - before.mean(-1, keepdim=True) if self.centres else before
        unscaled = x * self.gain  # (B, d)
        return ((after - self.shift) * unscaled).sum(-1) / (unscaled * unscaled).sum(-1)


@dataclass(frozen=True)
class _Layer:
    """Where a layer writes.

    Attributes:
        projection: The output projection of its attention, a Linear or a Conv1D.
        norm: The norm behind it, before the residual stream, if there is one.
        mlp: The module whose output is the rest of what the layer writes.
    """

    projection: nn.Module
    norm: _Norm | None
    mlp: nn.Module


@dataclass
class Read:
    """What was read at one position per prompt of the forward pass, each of B rows.

    Attributes:
        embedding: x_0, shape (B, d).
        values: z of each layer, all heads side by side, shape (B, H d_v).
        normed: Input and output of each layer's norm behind attention, shape (B, d) each, where there is one.
        mlps: What each layer's MLP writes, shape (B, d).
        residual: x_L, shape (B, d).
        final: What the final norm makes of it, shape (B, d).
    """

    embedding: Tensor | None = None
    values: dict[int, Tensor] = field(default_factory=dict)
    normed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mlps: dict[int, Tensor] = field(default_factory=dict)
    residual: Tensor | None = None
    final: Tensor | None = None


@dataclass(frozen=True)
class _Directions:
    """What a part's numbers are multiplied with, for one set of C label words; scales are left out.

    Attributes:
        rows: Of the unembedding, shape (C, d).
        bias: Of the unembedding, shape (C,).
        residual: For what is written into the residual stream, shape (C, d).
        heads: For each layer's z, shape (C, H, d_v).
        biases: Each layer's attention output bias along its direction, shape (C,).
        shifts: The shift of each layer's norm behind attention along the residual's, shape (C,).
        constant: Shift of the final norm and bias of the unembedding, shape (C,).
    """

    rows: Tensor
    bias: Tensor
    residual: Tensor
    heads: list[Tensor]
    biases: list[Tensor]
    shifts: list[Tensor]
    constant: Tensor


class Decomposer:
    """Splits a model's label logits at the last position.

        decomposer = Decomposer(network)
        with decomposer.reading(places) as read:
            network(**batch.inputs())
        parts, logits = decomposer.split(read, batch.label_ids)

    Args:
        network: Any decoder-only model, parameters frozen.

    Raises:
        InputError: Its family cannot be decomposed, and why.
    """

    @exact_products()
    @torch.no_grad()
    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        self._attentions = attention_modules(network)  # it refuses what has none
        shape = network.config.get_text_config()
        self.count, self.heads = shape.num_hidden_layers, shape.num_attention_heads
        self._unembedding = network.get_output_embeddings()
        self._found: dict[tuple[int, ...], _Directions] = {}
        self._find()
        self._check()

    def parts(self) -> pd.DataFrame:
        """See :func:`parts`."""
        return parts(self.count, self.heads)

    @contextmanager
    def reading(self, places: Tensor) -> Iterator[Read]:
        """Read one position per prompt of the forward passes inside; the last one's is kept.

        Args:
            places: Among the queries of the pass, shape (B,).
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
        """The logits of each part over the label words, and the model's own.

        Args:
            read: What was read.
            label_ids: Token id of each class, shape (B, C).

        Returns:
            g, shape (B, K, C), in the order of :func:`parts`, and the logits before any soft-capping, shape (B, C); at least
            float32.
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
                weight = at_least_float32(layer.projection.weight)  # (d, H d_v), of a Conv1D the other way round
                along = inner @ (weight.T if isinstance(layer.projection, Conv1D) else weight)  # (C, H d_v)
                heads.append(along.view(len(ids), self.heads, -1))  # (C, H, d_v)
                own = layer.projection.bias
                biases.append(torch.zeros_like(outer) if own is None else inner @ at_least_float32(own))
                shifts.append(residual @ layer.norm.shift if layer.norm else torch.zeros_like(outer))
            constant = rows @ self._final.shift + outer
            self._found[ids] = _Directions(rows, outer, residual, heads, biases, shifts, constant)
        return self._found[ids]

    def _find(self) -> None:
        """Find which modules write the parts, by watching one short input go through.

        Raises:
            InputError: Attention and one more module do not make up what a layer writes, or there is no final norm.
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
        # A dropout behind attention does nothing here.
        plain = first is attention or _same(seen[first][1], written)
        return _Layer(projection, None if plain else _Norm.of(first, made.shape[-1], made), second)

    def _check(self) -> None:
        """The parts of a short input sum to the logits that its unembedding gives.

        Raises:
            InputError: They do not.
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
    """N prompts taken apart.

    Attributes:
        parts: g, shape (N, K, C), in the order of :func:`icl_lens.studies.component_reweighting.decomposition.parts`.
        logits: The model's own over the label words, before any soft-capping, shape (N, C).
        attention: What each head's last position pays to all label words together, shape (N, L, H); zeros where it was not
            asked for.
        reconstructed: Whether the class that each head's attention to demonstrations adds up to, argmax_c sum_i a_i 1[y_i = c]
            with a_i the largest weight in demonstration i, is the model's answer: 1 or 0, or between them the chance of a fair
            draw among classes with equal sums; shape (N, L, H), zeros where attention was not asked for.
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
    """Take prompts apart in one forward pass each; beginnings that prompts share are read once.

    Args:
        model: Its network is the decomposer's.
        decomposer: Takes it apart.
        prompts: Of one number of classes.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.
        with_attention: Whether attention is read, too, which asks for demonstrations and for a family whose attention can be
            read.

    Raises:
        InputError: They differ in the number of their classes, or attention is read and one has no demonstration.
    """
    count, classes = len(prompts), len(prompts[0].label_ids)
    if any(len(p.label_ids) != classes for p in prompts):
        raise InputError("the prompts differ in the number of their label words; give one task")
    if with_attention:
        require_demonstrations(prompts)
    parts = torch.empty(count, len(decomposer.parts()), classes)
    logits = torch.empty(count, classes)
    attention, reconstructed = torch.zeros(2, count, decomposer.count, decomposer.heads)
    nothing = torch.empty(0, dtype=torch.int64, device=model.device)  # no position meets the vocabulary matrix
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
    """Whether each head reconstructs the answer from its row, shape (L, H, T); shape (L, H). Position 0 counts for nothing."""
    largest = pooled(weights, places(prompt, drop_first=True))["max"]  # (L, H, D)
    shares = votes(largest.reshape(1, -1, largest.shape[-1]).astype(float), np.asarray(prompt.demo_labels)[None], classes)
    return agreement(shares, np.array([answer])).reshape(largest.shape[:2])


def _probe(network: PreTrainedModel) -> dict[str, Any]:
    """The arguments of a forward pass over two short inputs."""
    ids = torch.arange(1, 17, device=network.device).view(2, 8)  # (2, T)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def _tolerance(network: PreTrainedModel, exact: float) -> float:
    """Half precision rounds what is added; a missing part is of the size of what it is missing from."""
    return exact if network.dtype in (torch.float32, torch.float64) else 0.05


def _given(args: tuple, kwargs: dict) -> Any:
    """The hidden states that a module was given."""
    return args[0] if args else kwargs.get("hidden_states")


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))
