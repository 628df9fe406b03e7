"""Language models: loading any decoder-only checkpoint with every doubt raised at once, and running prompts in batches.

Batches are cut by a budget of tokens from prompts sorted by length, padded on the right with explicit positions and mask,
and answers are returned in the prompts' own order, so that neither padding nor batch size changes an answer. Prompts that
share their beginning can be cut into batches of their tails (:mod:`icl_lens.prefixes`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from icl_lens import (
    activations,
    attention,
    converted,
    fetched,
    layer_states,
    memory,
    model_cache,
    prefixes,
    provenance,
    vocabulary,
)
from icl_lens.checkpoints import checkpoint_files, weight_files
from icl_lens.errors import InputError
from icl_lens.positions import TokenizedPrompt
from icl_lens.precision import at_least_float32, exact_products

logger = logging.getLogger(__name__)

# A model counts as untrained when its mean loss per token is within this many nats of a uniform guess (or worse).
# Random weights come within about 0.1 of it; a trained model is several nats below.
UNTRAINED_MARGIN = 0.5

OBSERVED = 2**26
"""Logits that :func:`observe` makes at most: 256 tokens' with a vocabulary of 262,144, all of eight usual prompts' with one of
50,257. They take a quarter of :data:`icl_lens.memory.LIMIT`, and so do their log-probabilities."""

# So many logits may be made at positions where only some prompts end, in one product; beyond, each prompt has only its own.
_LOGITS = 2**25


@dataclass(frozen=True)
class LanguageModel:
    """A loaded checkpoint.

    Attributes:
        name: Its name in artifacts.
        network: The model, in evaluation mode, parameters frozen.
        tokenizer: Its fast tokenizer.
        dtype: Name of the number format of its weights.
        facts: What identifies it, for provenance: family, layers, heads, parameters, hash of its files, of a fetched
            model its name on the hub and its commit, and of one converted from a GGUF file that file's name, SHA-256 and
            quantisation.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return self.network.config.get_text_config().num_hidden_layers

    @property
    def context(self) -> int | None:
        """Most tokens a prompt may have; None when the architecture sets no bound.

        Rotary positions that change with the length (longrope, dynamic) count as far as they do not: beyond, a prompt's
        answer would hang on what else is in its batch, or came before it.
        """
        shape = self.network.config.get_text_config()
        bounds = [getattr(shape, "max_position_embeddings", None)]
        rotary = getattr(shape, "rope_parameters", None) or {}
        for parameters in [rotary, *(part for part in rotary.values() if isinstance(part, dict))]:  # one a kind of layer
            if parameters.get("rope_type") in ("longrope", "dynamic"):
                bounds.append(parameters.get("original_max_position_embeddings"))
        return min((bound for bound in bounds if bound), default=None)

    @cached_property
    def sizes(self) -> memory.Sizes:
        """What decides how large a batch may be."""
        return memory.sizes(self.network)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether prompts that begin alike may share what the model computes for their beginning; tried on first use."""
        shareable = prefixes.is_shareable(self.network)
        if not shareable:
            logger.info("model %s cannot read a shared beginning once: every prompt is read whole", self.name)
        return shareable

    @cached_property
    def ends_in_rows(self) -> bool:
        """Whether its last layer can do with one row of each prompt (:func:`icl_lens.attention.flows`); tried on first use."""
        can = attention.ends_in_rows(self.network)
        if not can:
            logger.info("the last layer of %s needs every position: all are computed", self.name)
        return can

    @cached_property
    def resumes(self) -> bool:
        """Whether a forward pass can begin at a layer (:mod:`icl_lens.layer_states`); tried on first use."""
        can = layer_states.can_resume(self.network)
        if not can:
            logger.info("no forward pass of %s can begin at a later layer: all layers are computed", self.name)
        return can

    @cached_property
    def ends_in_vocabulary(self) -> bool:
        """Whether its logits are what its vocabulary matrix returns (:func:`icl_lens.vocabulary.is_last`)."""
        return vocabulary.is_last(self.network)

    @cached_property
    def ends_in_last_rows(self) -> attention.LastRows | None:
        """How next-token logits spare the last layer all other rows (:func:`icl_lens.attention.last_layer_at`), if they can."""
        return attention.ends_in_last_rows(self.network) if self.shares_prefixes else None


@dataclass(frozen=True)
class _Checkpoint:
    """What a folder holds, read and checked: configuration, network, tokenizer, and the hash of its files."""

    config: PreTrainedConfig
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hash: str


# By resolved folder and number format: see :func:`preload`.
_PRELOADED: dict[tuple[Path, str], tuple[tuple, _Checkpoint, list[logging.LogRecord]]] = {}
_TAKEN: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right to one length, on the model's device; or their tails after a prefix that they share.

    A position counts from the beginning of the whole prompt, with a prefix too. The forward pass has a query for each of
    the Q positions P, P + 1, ... and a key for each of the K = P + Q positions 0, 1, ...; without a prefix P is 0.

    Attributes:
        index: Each row's place in the list of prompts, B of them.
        ids: Token ids of what is read here, shape (B, Q).
        mask: 1 for a token, 0 for padding, shape (B, K).
        positions: P, P + 1, ... along each row, shape (B, Q).
        last: Position of each row's last token, shape (B,).
        label_ids: Token id of each class, shape (B, C).
        gold: Class index of each query, shape (B,).
        prefix: What all rows begin with, already read.
        left: Whether rows are padded on the left instead (:func:`last_tokens`).
    """

    index: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    label_ids: torch.Tensor
    gold: torch.Tensor
    prefix: prefixes.Prefix | None = None
    left: bool = False

    @property
    def start(self) -> int:
        """P: the position of the first query, which is the prefix's length."""
        return self.prefix.length if self.prefix else 0

    def inputs(self) -> dict[str, Any]:
        """The arguments of a forward pass."""
        past = {"past_key_values": self.prefix.cache(len(self.index))} if self.prefix else {}
        # A causal model never sees what is to the right, so padding there needs no mask.
        mask = {"attention_mask": self.mask} if self.left else {}
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": bool(past), **mask, **past}


def load(folder: Path | str, name: str | None = None, device: str = "auto", dtype: str = "float32") -> LanguageModel:
    """Load a decoder-only checkpoint and its tokenizer from a folder.

    Args:
        folder: Holds config.json, *.safetensors (or, where there is none, pytorch_model*.bin) and a fast tokenizer's files.
        name: The model's name in artifacts; by default the folder's own, of a fetched model its own on the hub, of a
            converted one the GGUF file's.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.

    Raises:
        InputError: The folder, its weights or its tokenizer is absent or damaged, a fetched or converted file is not of the
            size it was written with, the device is not there, or the model is no decoder-only language model.
    """
    folder = Path(folder)
    place = pick_device(device)
    origin = fetched.read(folder)
    source = converted.read(folder)
    files = checkpoint_files(folder)
    held = _preloaded(folder, files, dtype) if place.type == "cpu" else None
    checkpoint = held or _read(folder, files, place, dtype)
    config, network = checkpoint.config, checkpoint.network
    shape = config.get_text_config()
    facts = {
        "name": name or _own_name(folder, origin, source),
        "family": config.model_type,
        "layers": shape.num_hidden_layers,
        "heads": getattr(shape, "num_attention_heads", None),  # a state-space model has none
        "parameters": sum(p.numel() for p in network.parameters()),
        "files": checkpoint.hash,
        **({"hub": origin.hub, "commit": origin.commit} if origin else {}),
        **(source.facts() if source else {}),
    }
    return LanguageModel(name=facts["name"], network=network, tokenizer=checkpoint.tokenizer, dtype=dtype, facts=facts)


def preload(folder: Path | str, dtype: str = "float32") -> None:
    """Load a checkpoint on the CPU for forks of this process: the first :func:`load` of it in each finds it there.

    What checks find of the network is kept with it. This process must have used one thread only (torch.set_num_threads(1)).

    Args:
        folder: See :func:`load`.
        dtype: See :func:`load`.

    Raises:
        InputError: See :func:`load`; or a file changed meanwhile.
    """
    folder = Path(folder)
    files = checkpoint_files(folder)
    time.sleep(min(2.0, provenance.seconds_until_settled(provenance.file_stamps(files))))
    stamps = provenance.file_stamps(files)
    with _messages() as messages:
        checkpoint = _read(folder, files, torch.device("cpu"), dtype)
    model_cache.remember(checkpoint.network)
    for check in (
        prefixes.is_shareable,
        attention.ends_in_rows,
        attention.ends_in_last_rows,
        attention.require_supported,
        layer_states.can_resume,
        vocabulary.is_last,
    ):
        # What a check raises is not kept: a study that needs it runs it and says so.
        with contextlib.suppress(Exception), torch.no_grad():
            check(checkpoint.network)
    if provenance.seconds_until_settled(stamps) or provenance.file_stamps(files) != stamps:
        raise InputError(f"model folder {folder}: its files changed while they were read")
    _PRELOADED[folder.resolve(), dtype] = (stamps, checkpoint, messages)


def _preloaded(folder: Path, files: list[Path], dtype: str) -> _Checkpoint | None:
    """The checkpoint that :func:`preload` loaded, once; None if there is none, or if a file has changed since."""
    key = (folder.resolve(), dtype)
    if key not in _PRELOADED or key in _TAKEN:
        return None
    stamps, checkpoint, messages = _PRELOADED[key]
    if stamps != provenance.file_stamps(files):
        return None
    _TAKEN.add(key)  # the entry stays: to free a large model takes longer than to end the process
    for message in messages:
        logger.handle(message)
    return checkpoint


@contextlib.contextmanager
def _messages() -> Iterator[list[logging.LogRecord]]:
    """While open, what this package logs of the loading is kept, for each process that uses what is loaded to log it."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.level = level


def _read(folder: Path, files: list[Path], place: torch.device, dtype: str) -> _Checkpoint:
    """Read and check what :func:`load` needs of a folder."""
    config = _load_config(folder)
    tokenizer = _load_tokenizer(folder)
    network = _load_network(folder, config, getattr(torch, dtype)).to(place)
    if len(tokenizer) > network.get_input_embeddings().num_embeddings:
        raise InputError(
            f"model folder {folder}: the tokenizer has {len(tokenizer)} entries, the model only "
            f"{network.get_input_embeddings().num_embeddings} embeddings; is it another model's tokenizer?"
        )
    _require_causal(folder, network)
    return _Checkpoint(config, network, tokenizer, provenance.files_hash(files))


def _own_name(folder: Path, origin: fetched.Fetched | None, source: converted.Converted | None) -> str:
    if origin:
        return origin.hub.rpartition("/")[2]
    return Path(source.gguf).stem if source else folder.resolve().name


def pick_device(device: str) -> torch.device:
    """The device of that name; ``auto`` is cuda where it is available, otherwise cpu.

    ``auto`` never picks mps: no study was ever run on it, and PyTorch's attention on it has returned wrong results without an
    error (pytorch/pytorch issues 174861, 176767 and 195910, pull request 184180).

    Raises:
        InputError: It is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there.get(device, False):
        present = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"device {device!r} is not there; this machine has {present}")
    return torch.device(device)


def fitting(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> list[TokenizedPrompt]:
    """The prompts that fit the model's context; the others are left out, counted and reported.

    Raises:
        InputError: None fits.
    """
    fits = [p for p in prompts if model.context is None or len(p.ids) <= model.context]
    left_out = len(prompts) - len(fits)
    if not fits:
        shortest = min(len(p.ids) for p in prompts)
        raise InputError(
            f"model {model.name}: no prompt fits its context of {model.context} tokens (the shortest has {shortest}); "
            "leave this task out (tasks, or items.*.tasks) or use a model with a longer context"
        )
    if left_out:
        logger.warning(
            "%d of %d prompts are longer than the context of %s (%d tokens) and are left out",
            left_out,
            len(prompts),
            model.name,
            model.context,
        )
    return fits


def sharing(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> list[prefixes.Group]:
    """The prompts in groups that share their beginning, as :func:`icl_lens.prefixes.groups` finds them.

    One group with nothing in common where the model cannot share, so that a caller need not ask.
    """
    if model.shares_prefixes:
        return prefixes.groups(prompts)
    return prefixes.groups(prompts, least=len(prompts) + 1)


def batches(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    budget: int,
    index: Sequence[int] | None = None,
    prefix: prefixes.Prefix | None = None,
    kept: memory.Kept = "layer",
    positions: int = 1,
) -> Iterator[Batch]:
    """Batches of at most ``budget`` tokens, padding included (a longer prompt is a batch of its own).

    On a CPU they are smaller where such a batch would take more memory than :data:`icl_lens.memory.LIMIT`.

    Prompts of like length go together; :attr:`Batch.index` says where each belongs.

    Args:
        model: Its device is the batches'.
        prompts: Any prompts.
        budget: Tokens per batch. A token of the prefix counts :data:`icl_lens.memory.TOKEN_SHARE` in each row.
        index: Places of the prompts to take; all by default.
        prefix: What the prompts taken begin with; the batches hold only what follows it.
        kept: What the caller holds until a batch is done: ``layer`` (nothing of earlier layers), ``states`` (hidden states, or
            keys and values, of all layers), ``graph`` (what a backward pass needs).
        positions: Positions of each prompt whose logits over the whole vocabulary the caller makes.
    """
    model.ends_in_last_rows  # noqa: B018 - tried here, on two short rows, before a caller opens contexts for a batch's own
    start = prefix.length if prefix else 0
    taken = range(len(prompts)) if index is None else index
    order = sorted(taken, key=lambda i: (-len(prompts[i].ids), i))  # longest first: memory fails early
    while order:
        longest = len(prompts[order[0]].ids) - start
        size = model.sizes.rows(budget, longest, start, kept, positions)
        # Label words may differ from prompt to prompt, but a batch has one number of classes.
        classes = len(prompts[order[0]].label_ids)
        rows = []
        for i in order[:size]:
            if len(prompts[i].label_ids) != classes:
                break
            rows.append(i)
        order = order[len(rows) :]
        yield _pad(rows, [prompts[i] for i in rows], longest, model.device, prefix)


def shared_batches(model: LanguageModel, prompts: Sequence[TokenizedPrompt], budget: int) -> Iterator[Batch]:
    """Batches of every prompt, a beginning that several share read once; for a model without interventions."""
    for group in sharing(model, prompts):
        yield from batches(model, prompts, budget, group.index, prefixes.read(model.network, group.ids))


def last_tokens(model: LanguageModel, prompts: Sequence[TokenizedPrompt], beginnings: Sequence[prefixes.Prefix]) -> Batch:
    """The last token of each prompt after its own beginning, which is all that comes before, already read.

    The rows are padded on the left: place K - 1 is the last of every row, and position t of a prompt of T tokens is place
    t + K - T. All prompts have one number of classes.
    """
    lengths = torch.tensor([len(p.ids) for p in prompts], device=model.device)  # (B,)
    width = max(len(p.ids) for p in prompts)
    places = torch.arange(width, device=model.device)  # (K,)
    return Batch(
        index=list(range(len(prompts))),
        ids=torch.tensor([[int(p.ids[-1])] for p in prompts], device=model.device),
        mask=(places >= width - lengths[:, None]).long(),
        positions=lengths[:, None] - 1,
        last=torch.full_like(lengths, width - 1),
        label_ids=torch.stack([torch.from_numpy(p.label_ids) for p in prompts]).to(model.device),
        gold=torch.tensor([p.gold for p in prompts], device=model.device),
        prefix=prefixes.side_by_side(beginnings),
        left=True,
    )


def last_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Next-token logits at each prompt's last position, in float32 at least, shape (B, V).

    Only these rows meet the vocabulary matrix and, where the family can do so, the last layer's queries and feed-forward part.
    """
    rows = batch.last - batch.start  # (B,)
    if batch.ids.shape[1] == 1:
        return at_least_float32(model.network(**batch.inputs()).logits[:, 0])  # (B, V)
    way = None if torch.is_grad_enabled() else model.ends_in_last_rows
    if not way:
        return last_output(model, batch)[0]
    inputs = batch.inputs()
    cache = inputs.get("past_key_values") or prefixes.passing(model.network)
    given = {"past_key_values": cache, "use_cache": True}
    if way == "alone":
        with attention.last_layer_at(model.network, rows, cache):
            return at_least_float32(model.network(**{**inputs, **given}).logits[:, 0])  # (B, V)
    with attention.last_layer_at(model.network, rows, cache, spreads=True):
        return last_output(model, batch, **given)[0]


def last_output(model: LanguageModel, batch: Batch, **arguments: Any) -> tuple[torch.Tensor, Any]:
    """What :func:`last_logits` returns, and all that the model returned (its logits are of no use).

    Args:
        model: The model.
        batch: The prompts.
        arguments: Of the forward pass, beside or in place of the batch's own.
    """
    kept, place = torch.unique(batch.last - batch.start, return_inverse=True)  # (U,), (B,)
    wide = len(place) * len(kept) * vocabulary.size(model.network) > _LOGITS
    rows = vocabulary.rows(model.network, place) if wide else nullcontext()
    with rows:
        output = model.network(**{**batch.inputs(), **arguments}, logits_to_keep=kept)
    logits = output.logits[:, 0] if wide else output.logits[torch.arange(len(place), device=place.device), place]  # (B, V)
    return at_least_float32(logits), output


def class_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """The last position's logits of the label words only, shape (B, C); only their rows of the vocabulary matrix are used."""
    tokens, column = torch.unique(batch.label_ids, return_inverse=True)  # (M,), (B, C)
    with vocabulary.only(model.network, tokens) as alone:
        return last_logits(model, batch).gather(1, column if alone else batch.label_ids)


@torch.inference_mode()
def observe(model: LanguageModel, prompts: Sequence[TokenizedPrompt], sample: int = 8) -> dict[str, Any]:
    """What a reader of any result must know of the model on these prompts, measured on the first ``sample`` of them.

    The loss is that of as many tokens, from the first on, as :data:`OBSERVED` logits are of.

    Returns:
        ``next_token_loss`` and ``uniform_loss`` in nats per token, ``untrained`` (the first is not clearly below the second:
        the model predicts these texts no better than a uniform guess), and ``unknown_tokens``, the share of all prompts'
        tokens that the tokenizer does not know.
    """
    losses = []
    read, left = [], max(1, OBSERVED // model.sizes.vocabulary)  # tokens whose loss is still to be measured
    for prompt in prompts[:sample]:
        if left > 0:
            read.append(replace(prompt, ids=prompt.ids[: left + 1]))
            left -= len(read[-1].ids) - 1
    for batch in batches(model, read, budget=1):  # one by one: the logits of all positions are large
        logits = model.network(**batch.inputs()).logits  # (1, T, V)
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].float(), batch.ids[0, 1:], reduction="none"))
    loss = torch.cat(losses).mean().item()
    uniform = math.log(len(model.tokenizer))
    untrained = not loss < uniform - UNTRAINED_MARGIN
    unknown = sum(p.unknown for p in prompts) / sum(len(p.ids) for p in prompts)
    if untrained:
        logger.warning(
            "model %s is untrained, or untrained on such text: its loss is %.2f nats a token, a uniform guess %.2f",
            model.name,
            loss,
            uniform,
        )
    if unknown:
        logger.warning("the tokenizer of %s does not know %.1f %% of the prompts' tokens", model.name, 100 * unknown)
    return {"next_token_loss": loss, "uniform_loss": uniform, "untrained": untrained, "unknown_tokens": unknown}


def _pad(
    index: list[int],
    prompts: list[TokenizedPrompt],
    longest: int,
    device: torch.device,
    prefix: prefixes.Prefix | None,
) -> Batch:
    start = prefix.length if prefix else 0
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)  # (B, Q); padding is masked, so any id will do
    mask = torch.zeros(len(prompts), start + longest, dtype=torch.int64)  # (B, K)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids) - start] = torch.from_numpy(prompt.ids[start:])
        mask[row, : len(prompt.ids)] = 1
    return Batch(
        index=index,
        ids=ids.to(device),
        mask=mask.to(device),
        positions=torch.arange(start, start + longest, device=device).expand(len(prompts), -1),
        last=torch.tensor([p.last for p in prompts], device=device),
        label_ids=torch.stack([torch.from_numpy(p.label_ids) for p in prompts]).to(device),
        gold=torch.tensor([p.gold for p in prompts], device=device),
        prefix=prefix,
    )


def _load_config(folder: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers makes of the file
        raise InputError(f"model folder {folder}: config.json is not a model's ({_first_line(error)})") from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(f"model folder {folder}: {config.model_type!r} is not a decoder-only language model")
    shape = config.get_text_config()
    if not hasattr(shape, "num_hidden_layers"):
        raise InputError(f"model folder {folder}: the config of {config.model_type!r} does not say how many layers it has")
    return config


def _load_network(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    pickled = [path for path in weight_files(folder) if path.suffix == ".bin"]
    if pickled:
        what = "model folder %s: no safetensors, so the weights are read from PyTorch's own files, tensors only (weights_only)"
        logger.info(what, folder)
        for path in pickled:
            _require_tensors(path)
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=not pickled,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and a family's own requirements raise what they like
        raise InputError(f"model folder {folder}: the weights cannot be loaded ({_first_line(error)})") from error
    # transformers would fill what is missing or of another size with random numbers, and go on.
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"model folder {folder}: the checkpoint lacks {len(missing)} weights, {missing[0]} among them")
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    if mismatched:
        raise InputError(
            f"model folder {folder}: {len(mismatched)} weights are not of the size that config.json says, "
            f"{mismatched[0]} among them"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        what = "model folder %s: config.json has no place for %d weights, %s among them; they are not used"
        logger.warning(what, folder, len(unused), unused[0])
    activations.fuse(network)
    return network.eval().requires_grad_(False)


def _require_tensors(path: Path) -> None:
    """Refuse a file of weights that is pickled and holds anything but tensors: unpickling it could run code.

    Nothing of it runs: torch's restricted unpickler knows tensors, plain values and their containers, and stops at
    everything else. On the device "meta" it reads no weights.
    """
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, or is damaged, and is not read: code could hide in it; take safetensors weights"
        ) from error
    except Exception as error:  # a file cut short raises what it likes
        raise InputError(f"model folder {path.parent}: the weights cannot be loaded ({_first_line(error)})") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path} holds something else than tensors by name; take safetensors weights")


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise InputError(f"model folder {folder}: the tokenizer cannot be loaded ({_first_line(error)})") from error
    if not tokenizer.is_fast:
        raise InputError(f"model folder {folder}: its tokenizer gives no offsets; a fast one (tokenizer.json) is needed")
    return tokenizer


@exact_products()
@torch.inference_mode()
def _require_causal(folder: Path, network: PreTrainedModel) -> None:
    """Refuse a model in which a token changes what was predicted before it (an encoder with a language-model head).

    A causal model computes the same numbers twice; the margin is for kernels that do not repeat themselves exactly.
    """
    ids = torch.arange(1, 7, device=network.device)[None]  # (1, 6)
    other = ids.clone()
    other[0, -1] += 1
    first, second = (network(input_ids=x, use_cache=False).logits[0, :-1] for x in (ids, other))  # (5, V) each
    if not first.isfinite().all():
        raise InputError(
            f"model folder {folder}: its logits are not finite numbers in {str(network.dtype).removeprefix('torch.')}; "
            "is that too narrow, or are the weights damaged?"
        )
    if (first - second).abs().max() > 1e-3 * first.float().std():
        raise InputError(
            f"model folder {folder}: {type(network).__name__} lets a token see those after it, so it is an encoder; "
            "a decoder-only language model is needed"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
