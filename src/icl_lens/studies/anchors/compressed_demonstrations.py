"""Compression of demonstrations to the keys and values of a few of their positions.

*Label Words are Anchors*, section 3.2 (Hidden_anchor). The model reads the P tokens of the demonstrations once. K of these
positions are kept, with their keys and values in all layers. The model then reads each query with only these K positions as
prefix:

    kept = kept_positions(prompt)                           # "formatting + label", shape (K,)
    compressed = compress(model, prompt, kept)
    for batch in batches(model, prompts, budget, compressed):
        logits = query_logits(model, batch, compressed)     # (E, V), see icl_lens.models.logits.predictive_logits

The kept positions are the template before the first text ("Review:") and all tokens of each demonstration except its text:
"\\nSentiment:", the whole label word, the newline after it and the next "Review:", up to and including the newline before the
query (released code, ``context_solver.py``). The BOS token, if present, and any text that a chat template adds before the
prompt also count as formatting. If demonstrations are turns of a chat, so do the characters that the chat template writes up to
the first template piece of the query.

A kept key does not change and keeps its position. The query's positions continue after the demonstrations, at P, P + 1, ...
(``compress_top.py``, and ``compress.py`` for GPT-J), or restart at 0 (``compress.py`` for GPT2-XL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from icl_lens.attention.block import block
from icl_lens.errors import InputError
from icl_lens.models import batching, prefixes
from icl_lens.models.batching import Batch
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import predictive_logits
from icl_lens.models.prefixes import Prefix
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.placement import device_of
from icl_lens.network.precision import exact_products
from icl_lens.prompts.positions import TokenizedPrompt


@dataclass(frozen=True)
class Compressed:
    """Compressed demonstrations, which keep only some positions.

    Attributes:
        prefix: Keys and values of the kept positions in each layer; its length is K.
        kept: The kept positions, ascending, shape (K,).
        ids: Token ids of the full demonstrations, shape (P,). A prompt can use this prefix only if it begins with these ids.
    """

    prefix: Prefix
    kept: np.ndarray
    ids: np.ndarray


def query_start(prompt: TokenizedPrompt) -> int:
    """Return P, the position of the query's first token, after the newline that ends the last demonstration.

    If demonstrations are turns of a chat, it is the first token of the content of the query's turn.

    Raises:
        InputError: The prompt has no demonstration.
    """
    if not len(prompt.anchors):
        raise InputError(f"prompt {prompt.prompt_id} has no demonstration to compress; use prompts with demonstrations")
    if len(prompt.turn_starts):
        end = int(prompt.turn_starts[-1])
    else:
        end = int(prompt.label_spans[-1, 1])
        end += prompt.text[end : end + 1] == "\n"
    # A token that extends past this character belongs to the query. A token without characters (BOS) has end 0.
    return int(np.argmax(prompt.spans[:, 1] > end))


def text_positions(prompt: TokenizedPrompt) -> list[np.ndarray]:
    """Return the positions of each demonstration's text, as D arrays.

    They include the spaces that the template puts before the text. A token that extends past the end of the text into the
    template belongs to the template.

    Raises:
        InputError: The prompt has no demonstration, or its table lacks the spans of the demonstrations' texts.
    """
    length = query_start(prompt)
    if len(prompt.text_spans) != len(prompt.demo_labels):
        raise InputError(
            f"prompt {prompt.prompt_id} has {len(prompt.text_spans)} text_spans, but {len(prompt.demo_labels)} demonstrations; "
            "give one text span per demonstration"
        )
    start, end = prompt.spans[:length].T  # (P,) each
    found = []
    for first, last in prompt.text_spans.tolist():
        first = len(prompt.text[:first].rstrip(" "))
        found.append(np.flatnonzero((start < last) & (end > first) & (end <= last)))
    return found


def kept_positions(prompt: TokenizedPrompt) -> np.ndarray:
    """Return the positions that Hidden_anchor keeps: all positions of the demonstrations except their texts.

    Returns:
        Positions, ascending, shape (K,).

    Raises:
        InputError: See :func:`text_positions`.
    """
    return np.setdiff1d(np.arange(query_start(prompt)), np.concatenate(text_positions(prompt)))


def group_by_demonstrations(prompts: Sequence[TokenizedPrompt]) -> list[list[int]]:
    """Group prompts that have the same seed and exactly the same demonstration tokens.

    Returns:
        Indices of the prompts in each group.

    Raises:
        InputError: A prompt has no demonstration.
    """
    found: dict[tuple, list[int]] = {}
    for i, prompt in enumerate(prompts):
        ids = prompt.ids[: query_start(prompt)]
        arrays = (ids, kept_positions(prompt), prompt.anchors)
        found.setdefault((prompt.seed, *(array.tobytes() for array in arrays)), []).append(i)
    return list(found.values())


def compress(model: LanguageModel, prompt: TokenizedPrompt, kept: np.ndarray) -> Compressed:
    """Run the model on a prompt's demonstrations, and keep the keys and values of some positions in all layers.

    Args:
        model: A model that passes :func:`require_compressible`.
        prompt: The prompt. The model does not read its query.
        kept: Positions before the query, ascending, shape (K,); at least one.

    Raises:
        InputError: The prompt has no demonstration, or its demonstrations are longer than the model's context.
    """
    return keep(read(model, prompt), prompt.ids[: query_start(prompt)], kept)


def read(model: LanguageModel, prompt: TokenizedPrompt) -> Prefix:
    """Run the model on all P positions of a prompt's demonstrations.

    :func:`keep` compresses the result. It can be called several times on the same result.

    Raises:
        InputError: See :func:`compress`.
    """
    length = query_start(prompt)
    if model.context is not None and length > model.context:
        raise InputError(
            f"model {model.name}: the demonstrations of prompt {prompt.prompt_id} have {length} tokens, but the context has "
            f"only {model.context}; use fewer or shorter demonstrations"
        )
    return prefixes.read(model.network, prompt.ids[:length])


def keep(full: Prefix, ids: np.ndarray, kept: np.ndarray) -> Compressed:
    """Keep some positions of the full demonstrations.

    Args:
        full: The return value of :func:`read`.
        ids: Token ids of the full demonstrations, shape (P,).
        kept: Positions, ascending, shape (K,); at least one.
    """
    index = torch.from_numpy(np.asarray(kept))  # (K,)
    return Compressed(
        prefix=Prefix(
            keys=tuple(layer.index_select(-2, index.to(layer.device)) for layer in full.keys),  # (1, H_kv, K, d) each
            values=tuple(layer.index_select(-2, index.to(layer.device)) for layer in full.values),  # (1, H_kv, K, d) each
            length=len(kept),
        ),
        kept=np.asarray(kept),
        ids=np.asarray(ids),
    )


def batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    budget: int,
    compressed: Compressed,
    restarted: bool = False,
    index: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield batches of queries with compressed demonstrations as prefix.

    Each row consists of the K kept positions and a query, and :attr:`~icl_lens.models.batching.Batch.last` is an index into
    this row. Only :attr:`~icl_lens.models.batching.Batch.positions` are the position ids that the model receives: P, P + 1, ...
    or 0, 1, ...

    Args:
        model: The model. The batches are on its device.
        prompts: Any prompts.
        budget: See :func:`icl_lens.models.batching.batches`.
        compressed: The compressed demonstrations of all selected prompts.
        restarted: Whether the queries' positions restart at 0. By default, they continue after the demonstrations.
        index: Indices of the prompts to select; all by default.

    Raises:
        InputError: A prompt does not begin with the compressed demonstrations, its query does not fit into the remaining
            context, or the model does not support restarted positions.
    """
    length = len(compressed.ids)
    if restarted and windows(model):
        raise InputError(
            f"model {model.name} has layers with a sliding window, so the positions of its queries cannot restart at 0; use "
            "only `continued` (studies.compression.positions)"
        )
    first_position = 0 if restarted else length
    selected = list(range(len(prompts))) if index is None else list(index)
    shortened = []
    for i in selected:
        prompt = prompts[i]
        if len(prompt.ids) <= length or (prompt.ids[:length] != compressed.ids).any():
            raise InputError(
                f"prompt {prompt.prompt_id} does not begin with the compressed demonstrations; compress the demonstrations "
                "of this prompt"
            )
        query = prompt.ids[length:]
        needed = len(query) + prompt.appended
        if model.context is not None and first_position + needed > model.context:
            raise InputError(
                f"prompt {prompt.prompt_id}: the query has {needed} tokens, but the context of {model.name} "
                f"({model.context} tokens) has room for only {model.context - first_position}; shorten the query or use fewer "
                "demonstrations"
            )
        shortened.append(replace(prompt, ids=np.concatenate([compressed.ids[compressed.kept], query])))
    for batch in batching.batches(model, shortened, budget, prefix=compressed.prefix, score=True):
        yield replace(
            batch,
            index=[selected[i] for i in batch.index],
            positions=batch.positions + (first_position - compressed.prefix.length),  # (B, Q)
        )


def query_logits(model: LanguageModel, batch: Batch, compressed: Compressed) -> torch.Tensor:
    """Return the next-token logits at the predicting positions, shape (E, V).

    See :func:`icl_lens.models.logits.predictive_logits`.
    """
    with within_windows(model, batch, compressed):
        return predictive_logits(model, batch)


def within_windows(model: LanguageModel, batch: Batch, compressed: Compressed) -> AbstractContextManager:
    """Return a context manager that limits each layer with a sliding window to the kept positions inside its window.

    Such a layer determines the window by counting the keys before a query. With K of P positions, the count is too small and
    the window reaches too far back. The context therefore blocks the keys that are outside the window by their true positions.
    """
    window_sizes = windows(model)
    if not window_sizes:
        return nullcontext()
    device = batch.ids.device
    keys = torch.from_numpy(compressed.kept).to(device)  # (K,)
    distance = batch.positions[:, :, None] - keys  # (B, Q, K)
    query_edges = torch.zeros(*batch.positions.shape, batch.positions.shape[1], dtype=torch.bool, device=device)  # (B, Q, Q)
    # (B, Q, K + Q) each
    edges = {size: torch.cat([distance >= size, query_edges], dim=-1) for size in set(window_sizes.values())}
    return block(model.network, {layer: edges[size] for layer, size in window_sizes.items()})


def windows(model: LanguageModel) -> dict[int, int]:
    """Return the layers with a sliding window, each with its window size, including the query's own position.

    Raises:
        InputError: A layer limits its attention in another way.
    """
    text_config = model.network.config.get_text_config()
    size = getattr(text_config, "sliding_window", None)
    layer_types = (
        getattr(text_config, "layer_types", None) or ["sliding_attention" if size else "full_attention"] * model.layers
    )
    unsupported = sorted(set(layer_types) - {"sliding_attention", "full_attention"})
    if unsupported:
        raise InputError(
            f"model {model.name}: demonstrations cannot be compressed, because in its layers of type {unsupported[0]} "
            "positions alone do not determine the visible keys; use another model"
        )
    return {layer: size for layer, layer_type in enumerate(layer_types) if layer_type == "sliding_attention" and size}


@exact_products()
@torch.no_grad()
def require_compressible(model: LanguageModel) -> None:
    """Check on a short input that the model supports a cache with only some of the keys and values.

    The logits of a query after the K kept positions must equal its logits after all P positions with the other positions
    masked. The logits must also depend on the position ids of the query.

    Raises:
        InputError: One of these conditions does not hold, or the model has no KV cache.
    """
    network = model.network
    length, n_query = 16, 8
    kept = np.array([0, 3, 4, 9, 14, 15])
    device = device_of(network)
    ids = torch.arange(1, 1 + length + n_query, device=device) % network.get_input_embeddings().num_embeddings  # (T,)
    demonstration_ids, query_ids = ids[:length].cpu().numpy(), ids[None, length:]  # (P,), (1, Q)
    positions = torch.arange(length, length + n_query, device=device)[None]  # (1, Q)
    full_mask = torch.ones(1, length + n_query, dtype=torch.int64, device=device)  # (1, P + Q)
    full_mask[0, np.setdiff1d(np.arange(length), kept)] = 0
    short_mask = torch.ones(1, len(kept) + n_query, dtype=torch.int64, device=device)  # (1, K + Q)
    last = torch.full((1,), len(kept) + n_query - 1, device=device)  # (1,)
    try:
        full = prefixes.read(network, demonstration_ids)
        masked = network(**forward_inputs(query_ids, positions, full.cache(1), full_mask)).logits  # (1, Q, V)
        compressed = keep(full, demonstration_ids, kept)
        batch = Batch([0], query_ids, short_mask, positions, last, last[:, None], last, compressed.prefix)
        with within_windows(model, batch, compressed):
            kept_logits = network(**batch.inputs()).logits  # (1, Q, V)
            shifted = network(**replace(batch, positions=positions + length).inputs()).logits  # (1, Q, V)
    except InputError:
        raise
    except Exception as error:  # model families that do not support this cache raise various errors
        raise _not_compressible(model) from error
    # In half precision, rounding differs between the two. A wrong position or a missing key causes a much larger difference.
    tolerance = 1e-4 if network.dtype in (torch.float32, torch.float64) else 0.05
    same = (masked - kept_logits).abs().max() <= tolerance * masked.abs().max()
    # A family that derives positions from its mask (ALiBi) also does so after masked keys, so the first check cannot detect it.
    if not same or torch.equal(kept_logits, shifted):
        raise _not_compressible(model)


def _not_compressible(model: LanguageModel) -> InputError:
    family = model.network.config.model_type
    return InputError(
        f"model {model.name}: the family {family} does not support compressed demonstrations, because its cache cannot keep "
        "only some of the keys and values at their positions"
    )
