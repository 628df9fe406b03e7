"""The one place that touches attention: block edges, scale weights, record them, differentiate through them.

Eight context managers, and one function that stops on the way (:func:`queries_and_keys`), the same for every family; outside
them a model is exactly what it was.

    with block(network, {0: edges, 1: edges}):          # before the softmax; the fused kernel keeps running
        logits = network(**batch.inputs()).logits
    with record(network) as weights:                    # layer -> (B, H, Q, K)
        network(**batch.inputs())
    with record_rows(network, batch.last) as rows:      # layer -> (B, H, K); the fused kernel keeps running
        network(**batch.inputs())
    with record_keys_and_values(network) as memory:     # layer -> Memory; the fused kernel keeps running
        network(**batch.inputs())
    with flows(network, sink):                          # sink is told |sum over heads of A * dL/dA|, layer by layer
        loss(network(**batch.inputs())).backward()

``block`` is a mask, ``record_rows`` writes out one row a prompt, ``record_keys_and_values`` none and ``flows`` a few rows at a
time, so none of them keeps an attention matrix. The others need the matrices: while one of them is open, every attention module
computes by :func:`attend` instead of the fused kernel. Families built on transformers' attention interface take it by name;
GPT-J, which has none, gets it in place of its ``_attn`` method.

A forward pass has Q queries and K keys. They are the same positions, but after a prefix that prompts share
(:mod:`icl_lens.prefixes`), where the queries are the last Q of the K positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl_lens import flow_kernel, model_cache, vocabulary
from icl_lens.errors import InputError
from icl_lens.precision import at_least_float32, exact_products

NAME = "icl_lens"
NAME_ROWS = "icl_lens_rows"

# (layer, weights (B, H, Q, K)) -> weights of the same shape
Edit = Callable[[int, Tensor], Tensor]
# (layer, weights (B, H, Q, K), gradient of the loss with respect to them (B, H, Q, K)) -> None
Sink = Callable[[int, Tensor, Tensor], None]
# (layer, information flow (B, Q, K), mean over heads of the weights (B, Q, K) where it is wanted) -> None
FlowSink = Callable[[int, Tensor, Tensor | None], None]

# The attributes of an attention module that hold its open edits, oldest first, and the name of its fused kernel.
_EDITS = "_icl_lens_edits"
_KERNEL = "_icl_lens_kernel"
# The attribute of the last layer's attention module that holds the rows of queries it is given alone, shape (B,).
_ROWS = "_icl_lens_rows"


def attend(
    module: nn.Module,
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, d)
    attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more), added to the scores
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention written out, with its weights open to the module's edits.

    Scores and softmax are float32 in a half-precision model too (as in GPT-J), the weights are in the model's own format.

    Returns:
        The heads' outputs, shape (B, Q, H, d), and the weights after all edits, shape (B, H, Q, K); None where :func:`flows`
        is open alone, for which none are made.
    """
    edits = getattr(module, _EDITS, ())
    for edit in edits:
        if isinstance(edit, _Stop | _Reader):
            edit.read(module, query, key, value=value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if len(edits) == 1 and isinstance(edits[0], _Flows):
        output = edits[0].attend(module.layer_idx, query, key, value, attention_mask, scale, softcap)  # (B, H, Q, d)
        return output.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)  # (B, H, K, d)
        value = value.repeat_interleave(groups, dim=1)  # (B, H, K, d)
    scores = at_least_float32(query) @ at_least_float32(key).transpose(-1, -2) * scale  # (B, H, Q, K)
    if softcap is not None:  # Gemma 2
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores += attention_mask[..., : key.shape[-2]]  # (B, H, Q, K), in place: the matrices are the cost here
    weights = scores.softmax(-1).to(value.dtype)  # (B, H, Q, K)
    for edit in edits:
        weights = edit(module.layer_idx, weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend_and_read(
    module: nn.Module,
    query: Tensor,  # (B, H, Q, d)
    key: Tensor,  # (B, H_kv, K, d)
    value: Tensor,  # (B, H_kv, K, d)
    attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more), True where seen or added to the scores
    **arguments: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention by the fused kernel; beside it, the rows that the module's open row readers want, written out.

    Returns:
        The heads' outputs, shape (B, Q, H, d), and whatever else the kernel returns.
    """
    for reader in getattr(module, _EDITS):
        reader.read(module, query, key, attention_mask, value=value, **arguments)
    kernel = ALL_ATTENTION_FUNCTIONS[getattr(module, _KERNEL)]
    return kernel(module, query, key, value, attention_mask, **arguments)


AttentionInterface.register(NAME, attend)
AttentionInterface.register(NAME_ROWS, attend_and_read)
# Without a mask function of the same name transformers would pass no mask at all, not even the causal one.
AttentionMaskInterface.register(NAME, eager_mask)
AttentionMaskInterface.register(NAME_ROWS, sdpa_mask)


def attention_modules(network: PreTrainedModel) -> list[nn.Module]:
    """A model's self-attention modules, first layer first.

    Raises:
        InputError: They are not found one a layer, so this family is not supported.
    """
    attentions = [m for m in network.modules() if type(m).__name__.endswith("Attention")]
    if not attentions:
        raise _not_supported(network, "it has no attention layers")
    # Other attentions that a model may carry, of its picture encoder say, do not know a layer's place.
    found = [m for m in attentions if hasattr(m, "layer_idx")]
    if not found:
        raise _not_supported(network, "its attention modules do not tell which layer they are (layer_idx)")
    layers = network.config.get_text_config().num_hidden_layers
    if [m.layer_idx for m in found] != list(range(layers)):
        raise _not_supported(network, f"it has {len(found)} attention modules for {layers} layers, where one a layer is needed")
    return found


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def require_supported(network: PreTrainedModel) -> None:
    """Refuse a family whose attention is more than :func:`attend`, does not pass through it, or takes no mask to block.

    A study that opens any of this module's contexts asks this first. Nothing is known of families here: a short input
    is run through the model itself, and the answers are compared (some logits of them, for speed).

    Raises:
        InputError: The model's family is not supported, and why.
    """
    ids = torch.arange(1, 9, device=network.device)[None]  # (1, 8)
    everything = torch.ones_like(ids)  # (1, 8)

    def logits() -> Tensor:
        with vocabulary.only(network, ids[0]):
            return network(input_ids=ids, attention_mask=everything, use_cache=False).logits.float()  # (1, 8, 8)

    seen: list[int] = []

    def count(layer: int, weights: Tensor) -> Tensor:
        seen.append(layer)
        return weights

    layers = len(attention_modules(network))
    plain = logits()
    with _edit(network, count):
        written_out = logits()
    if not seen:
        raise _not_supported(
            network,
            "its attention does not pass through transformers' attention interface, so its weights can be neither read nor "
            "edited",
        )
    # Half precision rounds the two differently; a missing term is of the size of the logits themselves.
    tolerance = (1e-3 if network.dtype in (torch.float32, torch.float64) else 0.1) * plain.std()
    if seen != list(range(layers)) or (plain - written_out).abs().max() > tolerance:
        raise _not_supported(network, "its attention is more than softmax(QK)V (attention sinks or two softmaxes, say)")

    edges = torch.zeros(1, 8, 8, dtype=torch.bool, device=network.device)  # (1, Q, K)
    edges[0, 5, :5] = True
    with block(network, dict.fromkeys(range(layers), edges)), record(network) as weights:
        logits()
    if any(matrix[0, :, 5, :5].any() for matrix in weights.values()):
        raise _not_supported(network, "its attention modules take no attention_mask, so no edge can be blocked")


def _not_supported(network: PreTrainedModel, reason: str) -> InputError:
    return InputError(f"model family {network.config.model_type!r} is not supported: {reason}")


@contextmanager
def block(network: PreTrainedModel, edges: Mapping[int, Tensor]) -> Iterator[None]:
    """Block edges before the softmax, in all heads: the row's other weights grow to sum to 1.

    Args:
        network: Any supported model, whichever attention kernel it runs.
        edges: Layer -> True where query position q must not see key position k, shape (B, Q, K). A position always sees
            something: leave it itself, at least. After a shared prefix the queries are the last Q of the K positions.
    """

    def hook(layer_edges: Tensor) -> Callable:
        def mask_edges(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            mask = kwargs.get("attention_mask")
            blocked = layer_edges[:, None]  # (B, 1, Q, K)
            rows = getattr(module, _ROWS, None)
            if rows is not None:
                places = torch.arange(len(rows), device=rows.device)  # (B,)
                blocked = blocked.expand(len(rows), -1, -1, -1)[places, :, rows, None]  # (B, 1, 1, K)
            elif mask is None:
                # The fused kernel was left to be causal by itself; with a mask it no longer is.
                queries, keys = blocked.shape[-2:]
                mask = torch.ones(queries, keys, dtype=torch.bool, device=blocked.device).tril(keys - queries)  # (Q, K)
            # transformers hands the fused kernel a mask of booleans (True: seen), eager attention one of numbers to add.
            unseen = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            mask = mask.masked_fill(blocked, unseen)  # (B, 1, Q, K)
            return args, {**kwargs, "attention_mask": mask}

        return mask_edges

    modules = attention_modules(network)
    handles = [
        modules[layer].register_forward_pre_hook(hook(layer_edges), with_kwargs=True) for layer, layer_edges in edges.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def scale(network: PreTrainedModel, factors: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiply attention weights after the softmax, without renormalising (anchor re-weighting, section 3.1, eq. 9).

    Args:
        network: Any supported model.
        factors: Layer -> factors that broadcast to (B, H, Q, K); gradients flow to them.
    """

    def multiply(layer: int, weights: Tensor) -> Tensor:
        return weights * factors[layer].to(weights.dtype) if layer in factors else weights

    with _edit(network, multiply):
        yield


@contextmanager
def scale_rows(network: PreTrainedModel) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
    """Multiply one row's attention to some keys after the softmax, without renormalising; gradients flow to the factors.

    It is :func:`scale` for factors that are 1 elsewhere, without matrices of them: anchor re-weighting scales the last row
    (section 3.1, eq. 9 and 12). Opening it once serves many forward passes: the value is a function that says what the next
    ones scale,

        (rows, keys, factors)

    the position of each prompt's row, shape (B,), the positions that it attends to, shape (B, D), all different, both counted
    from the beginning of the whole prompt; and the factors of every layer, shape (L, B, H, D). Before it is called nothing is
    scaled.
    """
    edit = _ScaledRows()
    with _edit(network, edit):
        yield edit.take


class _ScaledRows:
    """Scales entries of one row per prompt, as an edit."""

    def __init__(self) -> None:
        self.factors: Tensor | None = None

    def take(self, rows: Tensor, keys: Tensor, factors: Tensor) -> None:
        self.rows, self.keys, self.factors = rows, keys, factors  # (B,), (B, D), (L, B, H, D)

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        if self.factors is None:
            return weights
        batch, heads, queries, width = weights.shape
        place = (
            torch.arange(batch, device=weights.device)[:, None, None],
            torch.arange(heads, device=weights.device)[:, None],
            (self.rows - (width - queries))[:, None, None],  # the queries are the last of the positions
            self.keys[:, None],
        )
        return weights.index_put(place, weights[place] * self.factors[layer].to(weights.dtype))  # (B, H, Q, K)


@contextmanager
def record(network: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Record the attention weights of the forward pass inside: layer -> (B, H, Q, K), as edited by outer contexts."""
    weights_of: dict[int, Tensor] = {}

    def keep(layer: int, weights: Tensor) -> Tensor:
        weights_of[layer] = weights.detach()
        return weights

    with _edit(network, keep):
        yield weights_of


@contextmanager
def record_rows(network: PreTrainedModel, rows: Tensor) -> Iterator[dict[int, Tensor]]:
    """Record one row of the attention weights per prompt: layer -> (B, H, K), as edited by outer contexts.

    It equals ``record(network)[layer][b, :, rows[b]]``, but makes no matrix: the fused kernel computes the output, and only
    the wanted queries are multiplied with the keys besides. Where the weights are written out anyway, the row is taken from
    them: inside or around ``scale``, ``record`` and ``differentiate``, and in families that have no fused kernel here
    (GPT-J, which knows no attention interface, and Gemma 2, whose scores are soft-capped).

    Args:
        network: Any supported model.
        rows: Position of each prompt's row, counted from the beginning of the whole prompt, shape (B,).
    """
    reader = _Rows(rows)
    with _edit(network, reader):
        yield reader.weights_of


class _Rows:
    """Takes one row per prompt of each layer's attention weights; as an edit, it changes nothing."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows  # (B,)
        self.prompts = torch.arange(len(rows), device=rows.device)  # (B,)
        self.weights_of: dict[int, Tensor] = {}

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        queries, keys = weights.shape[-2:]
        self.keep(layer, weights[self.prompts, :, self._places(queries, keys)])
        return weights

    def read(self, module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, **arguments: object) -> None:
        """Keep a module's rows, written out from what its attention function is given."""
        self.keep(module.layer_idx, self.written_out(query, key, attention_mask, **arguments).to(key.dtype))

    def keep(self, layer: int, row_weights: Tensor) -> None:
        """Keep a layer's rows, shape (B, H, K)."""
        self.weights_of[layer] = row_weights.detach()

    def written_out(
        self,
        query: Tensor,  # (B, H, Q, d)
        key: Tensor,  # (B, H_kv, K, d)
        attention_mask: Tensor | None,  # (B or 1, 1, Q, K or more)
        scaling: float | None = None,
        **_: object,
    ) -> Tensor:
        """The rows as :func:`attend` would compute them, shape (B, H, K), in float32 at least."""
        (batch, heads, queries, width), keys = query.shape, key.shape[-2]
        places = self._places(queries, keys)  # (B,)
        # A group of heads that share a key side by side, so that no key is repeated.
        asked = query[self.prompts, :, places].view(batch, key.shape[1], -1, width)  # (B, H_kv, H / H_kv, d)
        scale = width**-0.5 if scaling is None else scaling
        scores = at_least_float32(asked) @ at_least_float32(key).transpose(-1, -2) * scale  # (B, H_kv, H / H_kv, K)
        scores = scores.view(batch, heads, keys)  # (B, H, K)
        if attention_mask is None:  # the fused kernel is left to be causal by itself
            mask = torch.arange(keys, device=key.device) <= self.rows[:, None, None]  # (B, 1, K)
        else:
            mask = attention_mask[..., :keys].expand(batch, -1, -1, -1)[self.prompts, :, places]  # (B, 1, K)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)  # (B, H, K)

    def _places(self, queries: int, keys: int) -> Tensor:
        """Where the rows are among the queries, which are the last of the positions or these rows alone, shape (B,)."""
        return torch.zeros_like(self.rows) if queries == 1 else self.rows - (keys - queries)


def queries_and_keys(network: PreTrainedModel, inputs: Mapping[str, object], layer: int) -> tuple[Tensor, Tensor]:
    """The queries and keys of one layer before its rotary embedding: the forward pass runs so far and stops.

    They are what the layer's attention multiplies, had every token stood at position 0: projected (in GPT-2 by ``c_attn``),
    normalised where a family does so (Qwen 3), not turned. That is had by handing the layer no turn; the layers before it
    run as they are. A factor that a family puts on its queries before its attention (OPT) is in them.

    Args:
        network: Any supported model.
        inputs: The arguments of a forward pass over whole prompts, without a prefix.
        layer: Counted from 0.

    Returns:
        Queries, shape (B, H, T, d), and keys, shape (B, H_kv, T, d).
    """
    handle = attention_modules(network)[layer].register_forward_pre_hook(_unturned, with_kwargs=True)
    try:
        with _edit(network, _Stop(layer)):
            network(**inputs)
    except _Reached as reached:
        return reached.query, reached.key
    finally:
        handle.remove()
    raise AssertionError(f"layer {layer} was not reached")  # require_supported would have said so


def _unturned(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """An attention module's arguments with a rotary embedding that turns nothing: that of position 0."""
    kwargs = dict(kwargs)
    if kwargs.get("position_embeddings") is not None:
        cosine, sine = kwargs["position_embeddings"]  # (B or 1, T, d) each
        kwargs["position_embeddings"] = torch.ones_like(cosine), torch.zeros_like(sine)
    if kwargs.get("position_ids") is not None:  # GPT-J and CodeGen look their own turns up by position
        kwargs["position_ids"] = torch.zeros_like(kwargs["position_ids"])  # (B or 1, T)
    return args, kwargs


class _Reached(Exception):  # noqa: N818 - no error: the way out of a forward pass that has gone far enough
    """Carries the queries, keys and values at which a forward pass was stopped."""

    def __init__(self, query: Tensor | None, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value


class _Stop:
    """Ends the forward pass at a layer's attention; as an edit, it changes nothing."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return weights

    def read(self, module: nn.Module, query: Tensor, key: Tensor, *_: object, value: Tensor, **__: object) -> None:
        if module.layer_idx == self.layer:
            raise _Reached(query, key, value)


class Memory(NamedTuple):
    """What a layer's attention reads.

    Attributes:
        key: As it is multiplied, after a rotary embedding, shape (B, H_kv, K, d).
        value: Shape (B, H_kv, K, d).
        unturned_key: The key before a rotary embedding, as :func:`queries_and_keys` has it; None where it was not asked for.
    """

    key: Tensor
    value: Tensor
    unturned_key: Tensor | None = None


@contextmanager
def record_keys_and_values(network: PreTrainedModel, unturned: bool = False) -> Iterator[dict[int, Memory]]:
    """Record what every layer's attention reads in the forward pass inside: layer -> :class:`Memory`.

    Args:
        network: Any supported model.
        unturned: Keys before the rotary embedding, too. Each layer's projections then run twice, and prompts must be whole,
            without a prefix.
    """
    reader = _Reader()
    handles = []

    def read_before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        reader.stops = True
        args, kwargs = _unturned(module, args, kwargs)
        try:
            module.forward(*args, **kwargs)
        except _Reached as reached:
            reader.unturned[module.layer_idx] = reached.key.detach()
        finally:
            reader.stops = False  # from here on the layer runs as it is

    try:
        with _edit(network, reader):
            if unturned:
                handles += [m.register_forward_pre_hook(read_before, with_kwargs=True) for m in attention_modules(network)]
            yield reader.memory
    finally:
        for handle in handles:
            handle.remove()


class _Reader:
    """Takes each layer's keys and values; as an edit, it changes nothing."""

    def __init__(self) -> None:
        self.stops = False  # whether the layer is to be left as soon as its key is there
        self.unturned: dict[int, Tensor] = {}
        self.memory: dict[int, Memory] = {}

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return weights

    def read(self, module: nn.Module, query: Tensor, key: Tensor, *_: object, value: Tensor, **__: object) -> None:
        if self.stops:
            raise _Reached(query, key, value)
        layer = module.layer_idx
        self.memory[layer] = Memory(key.detach(), value.detach(), self.unturned.get(layer))


@contextmanager
def differentiate(network: PreTrainedModel, sink: Sink) -> Iterator[None]:
    """Hand every layer's attention weights and their gradient to ``sink``, last layer first, during a backward pass.

    Inside, run the model and call ``backward()`` on a loss. The graph begins at the first layer's attention weights, so
    parameters may be (and are) frozen. Nothing is held that autograd does not hold itself: the sink gets one layer's
    matrices at a time and they are freed when it returns.
    """

    def tap(layer: int, weights: Tensor) -> Tensor:
        return _Tap.apply(weights, torch.ones((), device=weights.device, requires_grad=True), layer, sink)

    with _edit(network, tap), torch.enable_grad():
        yield


class _Tap(torch.autograd.Function):
    """The identity, with an ear on its gradient."""

    @staticmethod
    def forward(ctx, weights: Tensor, root: Tensor, layer: int, sink: Sink) -> Tensor:
        # `root` requires a gradient, so the graph begins here even where nothing before does (layer 0).
        ctx.save_for_backward(weights)
        ctx.layer, ctx.sink = layer, sink
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (weights,) = ctx.saved_tensors
        ctx.sink(ctx.layer, weights, gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, None, None


@contextmanager
def flows(network: PreTrainedModel, sink: FlowSink, with_weights: bool = False, rows: Tensor | None = None) -> Iterator[None]:
    """Hand every layer's information flow |sum over heads of A * dL/dA| to ``sink``, last layer first, in a backward pass.

    It is what :func:`differentiate` gives the matrices for, without them: :mod:`icl_lens.flow_kernel` makes them anew a few
    rows at a time. Inside or around ``scale``, ``record`` and ``differentiate``, which write them out, it is taken from them.

    Args:
        network: Any supported model; parameters may be frozen.
        sink: Told a layer, its flow, shape (B, Q, K), and the mean over heads of its weights, of the same shape, or None.
        with_weights: Whether that mean is wanted.
        rows: Where the loss looks at one position of each prompt alone, these positions, shape (B,): the last layer then
            computes nothing for the others, whose outputs there are zeros. Prompts are whole, without a prefix, and
            :func:`ends_in_rows` must hold.
    """
    edit = _Flows(sink, with_weights)
    with _edit(network, edit), torch.enable_grad():
        if rows is None:
            yield
        else:
            with _last_layer_at(network, rows, edit):
                yield


class _Flows:
    """Tells a layer's information flow; as an edit, it changes nothing.

    Attributes:
        stops: Whether the layer is to be left as soon as its keys and values are there.
        last: What the last layer's one query a prompt sees, if it has no more: keys and values, shape (B, H_kv, K, d) each,
            and its position, shape (B,).
        spreads: Whether the last layer's output keeps all positions, with zeros where it computes none.
    """

    spreads = True

    def __init__(self, sink: FlowSink, with_weights: bool) -> None:
        self.sink, self.with_weights = sink, with_weights
        self.stops = False
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        return _Tap.apply(weights, torch.ones((), device=weights.device, requires_grad=True), layer, self._from_matrices)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """The heads' outputs, shape (B, H, Q, d)."""
        if self.stops:
            raise _Reached(query, key, value)
        tell = partial(self.sink, layer)
        if self.last:
            key, value, rows = self.last
            tell = partial(self._among_all, layer, rows)
        mask = None if mask is None else mask[..., : key.shape[-2]]  # (B or 1, 1, Q, K)
        return flow_kernel.attend(query, key, value, mask, scale, softcap, tell, self.with_weights)

    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        """Whether the weights are written out for another edit."""
        return len(edits) > 1

    def _among_all(self, layer: int, rows: Tensor, *of_rows: Tensor | None) -> None:
        """Tell the sink what is of one row a prompt, shape (B, 1, K), with zeros in the place of the others."""

        def whole(row: Tensor) -> Tensor:
            length = row.shape[-1]
            return row.new_zeros(len(row), length, length).scatter_(1, rows[:, None, None].expand_as(row), row)  # (B, K, K)

        self.sink(layer, *(None if row is None else whole(row) for row in of_rows))

    def _from_matrices(self, layer: int, weights: Tensor, gradient: Tensor) -> None:
        wide = at_least_float32(weights)  # (B, H, Q, K)
        flow = (wide * at_least_float32(gradient)).sum(1).abs_()  # (B, Q, K)
        self.sink(layer, flow, wide.mean(1) if self.with_weights else None)


@contextmanager
def last_layer_at(network: PreTrainedModel, rows: Tensor, cache: Cache, spreads: bool = False) -> Iterator[None]:
    """While open, the last layer computes one position of each prompt, and the model returns that position alone.

    Logits are then of shape (B, 1, V). Where an open context wants the attention matrices of every row, the last layer
    computes them all, and the model still returns one position. Edges that :func:`block` blocks are blocked here, too.

    Args:
        network: A model that can do so (:func:`ends_in_last_rows`).
        rows: Each prompt's position among the queries of the forward pass, shape (B,); there are at least two queries.
        cache: What the forward pass takes as ``past_key_values``; it has an entry for each layer.
        spreads: Whether the model returns all positions instead, of which the others mean nothing.
    """
    with _last_layer_at(network, rows, _LastMemory(cache.layers[-1], spreads)):
        yield


class _LastMemory:
    """The last layer's entry in a cache, for a layer that runs twice; attributes as those of :class:`_Flows`."""

    def __init__(self, entry: CacheLayerMixin, spreads: bool) -> None:
        self.spreads = spreads
        self.stops = False
        self.last: tuple[Tensor, Tensor, Tensor] | None = None
        update = entry.update

        def once(key: Tensor, value: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
            if self.last:
                return self.last[:2]
            key, value = update(key, value, *args, **kwargs)  # (B, H_kv, K, d) each
            if self.stops:
                raise _Reached(None, key, value)
            return key, value

        entry.update = once

    def needs_matrices(self, edits: Sequence[Edit]) -> bool:
        """Whether an open edit looks at every row of the attention weights."""
        return any(not isinstance(edit, _Rows) for edit in edits)


@contextmanager
def _last_layer_at(network: PreTrainedModel, rows: Tensor, memory: _Flows | _LastMemory) -> Iterator[None]:
    """While open, the last layer computes one position of each prompt.

    It runs twice: over all positions until its attention has their keys and values, and over those ``rows`` to its end. Its
    output is that of the rows, shape (B, 1, D), or has zeros in the place of the other positions, as ``memory.spreads`` says.
    """
    attention = attention_modules(network)[-1]
    layer = _layer_of(network, attention)
    whole = layer.forward

    def at_rows(state: Tensor, *args: object, **kwargs: object) -> object:  # (B, T, D)
        length, places = state.shape[1], torch.arange(len(rows), device=rows.device)  # (B,)
        if memory.needs_matrices(getattr(attention, _EDITS, ())):
            found = whole(state, *args, **kwargs)
            if memory.spreads:
                return found
            every = found[0] if isinstance(found, tuple) else found  # (B, T, D)
            row = every[places, rows][:, None]  # (B, 1, D)
            return (row, *found[1:]) if isinstance(found, tuple) else row

        def picked(given: object) -> object:
            """What a layer is given beside the state, for the rows alone: a mask, positions, the cosines and sines of them."""
            if isinstance(given, tuple | list):
                return type(given)(picked(one) for one in given)
            if not isinstance(given, Tensor) or given.ndim < 2:
                return given
            if given.ndim == 4 and given.shape[-2] == length:  # (B or 1, 1, T, K)
                return given.expand(len(rows), -1, -1, -1)[places, :, rows, None]  # (B, 1, 1, K)
            if given.ndim < 4 and given.shape[1] == length:  # (B or 1, T) or (B or 1, T, d)
                return given.expand(len(rows), *given.shape[1:])[places, rows][:, None]  # (B, 1) or (B, 1, d)
            return given

        memory.stops = True
        try:
            whole(state, *args, **kwargs)
        except _Reached as reached:
            memory.last = reached.key, reached.value, rows
        finally:
            memory.stops = False
        setattr(attention, _ROWS, rows)
        handle = attention.register_forward_pre_hook(causal, with_kwargs=True, prepend=True)
        try:
            found = whole(state[places, rows][:, None], *map(picked, args), **{n: picked(x) for n, x in kwargs.items()})
        finally:
            handle.remove()
            delattr(attention, _ROWS)
            memory.last = None
        row = found[0] if isinstance(found, tuple) else found  # (B, 1, D)
        if memory.spreads:
            row = torch.zeros_like(state).index_put((places, rows), row[:, 0])  # (B, T, D)
        return (row, *found[1:]) if isinstance(found, tuple) else row

    def causal(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The mask of the rows where the fused kernel was left to be causal by itself; of one query it would hide nothing."""
        if isinstance(memory, _Flows) or memory.last is None or kwargs.get("attention_mask") is not None:
            return None
        keys = torch.arange(memory.last[0].shape[-2], device=rows.device)  # (K,)
        return args, {**kwargs, "attention_mask": (keys <= rows[:, None])[:, None, None]}  # (B, 1, 1, K)

    own = vars(layer).get("forward")  # a library that places layers on devices may have put one there
    layer.forward = at_rows
    try:
        yield
    finally:
        if own is None:
            del layer.forward  # the class's own method again
        else:
            layer.forward = own


def decoder_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The entries of a model's list of layers, first layer first; each holds one of :func:`attention_modules`."""
    return [_layer_of(network, attention) for attention in attention_modules(network)]


def _layer_of(network: PreTrainedModel, attention: nn.Module) -> nn.Module:
    """The entry in a model's list of layers that an attention module is in."""
    name = next(name for name, module in network.named_modules() if module is attention)
    while name:
        outer = name.rpartition(".")[0]
        if isinstance(network.get_submodule(outer), nn.ModuleList):
            return network.get_submodule(name)
        name = outer
    raise AssertionError(f"{type(attention).__name__} is in no list of layers")


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def ends_in_rows(network: PreTrainedModel) -> bool:
    """Whether a family's last layer can do with one row of each prompt (:func:`flows`): on a short input, no logit changes."""
    ids = torch.arange(1, 17, device=network.device).view(2, 8) % network.get_input_embeddings().num_embeddings  # (2, T)
    rows = torch.tensor([5, 7], device=network.device)
    places = torch.arange(2, device=network.device)

    def logits() -> Tensor:
        with vocabulary.only(network, ids.flatten()):
            return network(input_ids=ids, use_cache=False).logits[places, rows].float()  # (2, 16)

    plain = logits()
    try:
        with flows(network, lambda *_: None, rows=rows):
            alone = logits()
    except Exception:  # whatever a family raises whose layers take something that is not cut to the rows
        return False
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    return bool((plain - alone).abs().max() <= tolerance * plain.abs().max())


LastRows = Literal["alone", "in_place"]


@exact_products()
@torch.no_grad()
@model_cache.cached_check
def ends_in_last_rows(network: PreTrainedModel) -> LastRows | None:
    """How a family's last layer can do with one row of each prompt (:func:`last_layer_at`): on a short input, no logit changes.

    Returns:
        ``alone`` where the model can return these rows alone, ``in_place`` where its output must keep its length, and None
        where the last layer needs every row.
    """
    ids = torch.arange(1, 17, device=network.device).view(2, 8) % network.get_input_embeddings().num_embeddings  # (2, T)
    rows = torch.tensor([5, 7], device=network.device)
    places = torch.arange(2, device=network.device)
    try:
        layers = len(attention_modules(network))
    except InputError:  # it answers prompts, but no study opens its attention
        return None
    edges = torch.zeros(2, 8, 8, dtype=torch.bool, device=network.device)  # (2, Q, K)
    edges[:, 3, :3] = edges[:, 5, 2] = True

    def logits(blocked: bool, way: LastRows | None) -> Tensor:
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in range(layers)]
        with ExitStack() as stack:
            stack.enter_context(vocabulary.only(network, ids.flatten()))
            if blocked:
                stack.enter_context(block(network, dict.fromkeys(range(layers), edges)))
            if way:
                stack.enter_context(last_layer_at(network, rows, cache, way == "in_place"))
            found = network(input_ids=ids, past_key_values=cache, use_cache=True).logits.float()  # (2, 1 or T, 16)
        return found[:, 0] if way == "alone" else found[places, rows]  # (2, 16)

    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05  # see prefixes.is_shareable
    plain = [logits(blocked, None) for blocked in (False, True)]
    for way in get_args(LastRows):
        try:
            found = [logits(blocked, way) for blocked in (False, True)]
        except Exception:  # whatever a family raises whose layers take something that is not cut to the rows
            continue
        if all((a - b).abs().max() <= tolerance * a.abs().max() for a, b in zip(plain, found, strict=True)):
            return way
    return None


@contextmanager
def _edit(network: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """While open, ``edit`` sees (and may replace) the attention weights of every layer."""
    modules = attention_modules(network)
    adapted = [m for m in modules if hasattr(m, "_attn")]  # GPT-J: no interface to take a function by name
    kernels = _kernels(network.config)
    before = network.config.get_text_config()._attn_implementation
    outermost = not any(getattr(m, _EDITS, ()) for m in modules)
    kernel = NAME_ROWS if isinstance(edit, _Rows | _Stop | _Reader) and before in ("sdpa", NAME_ROWS) else NAME
    for module in modules:
        setattr(module, _EDITS, (*getattr(module, _EDITS, ()), edit))
    try:
        if outermost:
            for module in adapted:
                module._attn = _gptj_attention(module)
            for module in modules:
                setattr(module, _KERNEL, before)
        if not adapted and kernel != before:
            network.set_attn_implementation(_kernels(network.config, kernel))
        yield
    finally:
        for module in modules:
            setattr(module, _EDITS, getattr(module, _EDITS)[:-1])
        if not adapted and kernel != before:
            network.set_attn_implementation(kernels)
        if outermost:
            for module in adapted:
                del module._attn  # the class's own method again
            for module in modules:
                delattr(module, _EDITS)
                delattr(module, _KERNEL)


def _kernels(config: PreTrainedConfig, kernel: str | None = None) -> dict:
    """For ``set_attn_implementation``: the kernels of a model and of the models in it, or ``kernel`` for all of them."""
    parts = {name: getattr(config, name) for name in config.sub_configs}
    # A part that names no kernel is not a model (MPT keeps its attention's settings so).
    inner = {name: _kernels(part, kernel) for name, part in parts.items() if part is not None and part._attn_implementation}
    return {"": kernel or config._attn_implementation, **inner}


def _gptj_attention(module: nn.Module) -> Callable:
    """:func:`attend` in the shape of ``GPTJAttention._attn``, which wants the heads before the positions."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> tuple:
        output, weights = attend(module, query, key, value, attention_mask)
        return output.transpose(1, 2), weights  # (B, H, Q, d), (B, H, Q, K)

    return attention
