"""Load a decoder-only checkpoint from a folder, and fail early on anything unsupported."""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from icl_lens.artifacts import hashes
from icl_lens.attention import flow, supported
from icl_lens.errors import InputError, first_line
from icl_lens.hub import adapters, converted, fetched, quantization
from icl_lens.hub.checkpoints import checkpoint_files, checkpoint_hash, weight_files
from icl_lens.models import last_row, lora, prefixes
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.options import LoadOptions
from icl_lens.models.untrained import untrained
from icl_lens.network import activations, layer_states, model_cache, quantized, vocabulary
from icl_lens.network import placement as placement_of_layers
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.placement import device_of
from icl_lens.network.precision import exact_products

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Checkpoint:
    """A loaded and checked checkpoint: configuration, model, tokenizer, the hash of its files, and facts about its weights.

    The facts are ``quantisation`` and ``adapter``, if the weights are quantised and if they contain an adapter.
    """

    config: PreTrainedConfig
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hash: str
    weights: dict[str, Any]


# The resolved folder, the number format and the resolved folder of the adapter, see :func:`preload`.
_Key = tuple[Path, str, Path | None]
_PRELOADED: dict[_Key, tuple[tuple, _Checkpoint, list[logging.LogRecord]]] = {}
_TAKEN: set[_Key] = set()


def load(folder: Path | str, options: LoadOptions | None = None, **changes: Any) -> LanguageModel:
    """Load a decoder-only checkpoint and its tokenizer from a folder.

    Args:
        folder: Folder with config.json, *.safetensors (or pytorch_model*.bin if there are none) and the files of a fast
            tokenizer.
        options: How to load the model; the defaults if None.
        changes: Options by name that differ, for example ``load(folder, device="cpu")``, see
            :class:`~icl_lens.models.options.LoadOptions`.

    Raises:
        InputError: The folder, its weights or its tokenizer is missing or corrupted, the size of a fetched or converted file
            has changed, the device is not available, the model is not a decoder-only language model, a package for quantised
            weights or for the adapter is not installed, the adapter is not for this model, or the placement does not match the
            device, the limits or the weights.
    """
    options = replace(options or LoadOptions(), **changes)
    folder, adapter = Path(folder), None if options.adapter is None else Path(options.adapter)
    if adapter is not None and options.untrained_seed is not None:
        raise InputError(f"adapter {adapter} changes nothing in an untrained copy; remove the adapter or the seed")
    target = pick_device(options.device)
    if options.placement == "device" and options.max_memory is not None:
        raise InputError("max_memory limits the memory of placement: auto, but placement is device; remove max_memory")
    limits = placement_of_layers.memory_limits(target, options.max_memory) if options.placement == "auto" else None
    origin = fetched.read(folder)
    source = converted.read(folder)
    if limits is not None:
        _require_plain_weights(folder, adapter)
    files = _files(folder, adapter)
    preloaded = _preloaded(folder, files, options.dtype, adapter) if target.type == "cpu" and limits is None else None
    checkpoint = preloaded or _read(folder, files, target, options.dtype, adapter, limits)
    config, network = checkpoint.config, checkpoint.network
    shape = config.get_text_config()
    facts = {
        "name": options.name or _default_name(folder, origin, source),
        "family": config.model_type,
        "layers": shape.num_hidden_layers,
        "heads": getattr(shape, "num_attention_heads", None),  # a state-space model has no heads
        "parameters": quantized.parameters(network),
        "files": checkpoint.hash,
        **({"hub": origin.hub, "commit": origin.commit} if origin else {}),
        **(source.facts() if source else {}),
        **checkpoint.weights,
    }
    _warn_of_other_base(origin, adapter)
    if limits is not None:
        logger.info("model %s: layers: %s", facts["name"], placement_of_layers.describe(network))
    model = LanguageModel(facts["name"], network, checkpoint.tokenizer, options.dtype, facts, limits)
    return model if options.untrained_seed is None else untrained(model, options.untrained_seed, name=model.name)


def preload(folder: Path | str, dtype: str = "float32", adapter: Path | str | None = None) -> None:
    """Load a checkpoint on the CPU for forks of this process. The first :func:`load` of the checkpoint in each fork reuses it.

    The results of checks of the model are cached. This process must have used only one thread (torch.set_num_threads(1)).

    Args:
        folder: See :func:`load`.
        dtype: See :func:`load`.
        adapter: See :func:`load`.

    Raises:
        InputError: See :func:`load`. It is also raised if a file changes while it is read.
    """
    folder, adapter = Path(folder), None if adapter is None else Path(adapter)
    files = _files(folder, adapter)
    time.sleep(min(2.0, hashes.seconds_until_settled(hashes.file_stamps(files))))
    stamps = hashes.file_stamps(files)
    with _messages() as messages:
        checkpoint = _read(folder, files, torch.device("cpu"), dtype, adapter)
    model_cache.remember(checkpoint.network)
    for check in (
        prefixes.is_shareable,
        flow.supports_single_row,
        last_row.last_row_mode,
        supported.require_supported,
        layer_states.can_resume,
        vocabulary.is_plain,
    ):
        # Errors are not cached: a study that needs the check runs it again.
        with contextlib.suppress(Exception), torch.no_grad():
            check(checkpoint.network)
    if hashes.seconds_until_settled(stamps) or hashes.file_stamps(files) != stamps:
        raise _changed(folder)
    _PRELOADED[_key(folder, dtype, adapter)] = (stamps, checkpoint, messages)


def _key(folder: Path, dtype: str, adapter: Path | None) -> _Key:
    return folder.resolve(), dtype, None if adapter is None else adapter.resolve()


def _files(folder: Path, adapter: Path | None) -> list[Path]:
    return [*checkpoint_files(folder), *([] if adapter is None else adapters.adapter_files(adapter))]


def _preloaded(folder: Path, files: list[Path], dtype: str, adapter: Path | None) -> _Checkpoint | None:
    """Return the checkpoint that :func:`preload` loaded, at most once.

    Return None if there is no such checkpoint, or if a file has changed since.
    """
    key = _key(folder, dtype, adapter)
    if key not in _PRELOADED or key in _TAKEN:
        return None
    stamps, checkpoint, messages = _PRELOADED[key]
    if stamps != hashes.file_stamps(files):
        return None
    _TAKEN.add(key)  # keep the entry, because freeing a large model takes longer than ending the process
    for message in messages:
        logger.handle(message)
    return checkpoint


@contextlib.contextmanager
def _messages() -> Iterator[list[logging.LogRecord]]:
    """Collect the log records of this module, so that each process that reuses the checkpoint can log them."""
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


def _read(
    folder: Path,
    files: list[Path],
    device: torch.device,
    dtype: str,
    adapter: Path | None = None,
    limits: placement_of_layers.Limits | None = None,
) -> _Checkpoint:
    """Read and check the parts of a checkpoint that :func:`load` needs."""
    quantization.require_packages(folder)
    if adapter is not None:
        adapters.require_packages()
    stamps = hashes.file_stamps(files)
    content = checkpoint_hash(folder)  # first, because it compares a fetched or converted model with its record
    config = _load_config(folder)
    tokenizer = _load_tokenizer(folder)
    network = _load_network(folder, config, getattr(torch, dtype), limits)
    weights = _weights(folder, network, getattr(torch, dtype), adapter)
    if limits is None:
        network = network.to(device)
    require_tokenizer(f"model folder {folder}", tokenizer, network)
    require_causal(f"model folder {folder}", network)
    if hashes.file_stamps(files) != stamps:
        raise _changed(folder)
    return _Checkpoint(config, network, tokenizer, content, weights)


def _weights(folder: Path, network: PreTrainedModel, dtype: torch.dtype, adapter: Path | None) -> dict[str, Any]:
    """Prepare quantised weights and merge an adapter, in place. Return the facts about both."""
    facts: dict[str, Any] = {}
    if quantization.bitsandbytes_bits(folder) is not None:
        try:
            facts["quantisation"] = quantized.replace_layers(network, dtype)
        except InputError as error:
            raise InputError(f"model folder {folder}: {error}; save the checkpoint again with transformers") from error
    if adapter is not None:
        facts["adapter"] = lora.merge(network, adapter, folder)
    network.eval().requires_grad_(False)
    return facts


def _require_plain_weights(folder: Path, adapter: Path | None) -> None:
    """Reject quantised weights and adapters for distributed layers, because both change weights of a model on one device."""
    if quantization.bitsandbytes_bits(folder) is not None:
        raise InputError(
            f"model folder {folder}: placement: auto needs float weights, but those of config.json are quantised; use "
            "placement: device, or the float checkpoint"
        )
    if adapter is not None:
        raise InputError(
            f"adapter folder {adapter} cannot be merged with placement: auto; save the merged model and study that, or use "
            "placement: device"
        )


def _warn_of_other_base(origin: fetched.Fetched | None, adapter: Path | None) -> None:
    base = None if adapter is None else adapters.base_model(adapter)
    if base and origin and base.lower() != origin.hub.lower():
        message = "adapter folder %s was trained on %s, but the model is %s: check that both have the same weights"
        logger.warning(message, adapter, base, origin.hub)


def _changed(folder: Path) -> InputError:
    return InputError(f"model folder {folder}: a file changed while it was read; rerun the command")


def _default_name(folder: Path, origin: fetched.Fetched | None, source: converted.Converted | None) -> str:
    if origin:
        return origin.hub.rpartition("/")[2]
    return Path(source.gguf).stem if source else folder.resolve().name


def pick_device(device: str) -> torch.device:
    """Return the device with this name; ``auto`` selects cuda if it is available, otherwise cpu.

    ``auto`` never selects mps. No study has been run on mps, and PyTorch's attention on mps has returned wrong results without
    an error (pytorch/pytorch issues 174861, 176767 and 195910, pull request 184180).

    Raises:
        InputError: The device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if not available.get(device, False):
        names = ", ".join(name for name, present in available.items() if present)
        raise InputError(f"device {device!r} is not available (available: {names})")
    return torch.device(device)


def _load_config(folder: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types of exceptions
        if "trust_remote_code" in str(error):
            raise InputError(
                f"model folder {folder}: config.json requires custom Python code (auto_map), which icl-lens never runs; use a "
                "model of a family that transformers includes"
            ) from error
        raise InputError(
            f"model folder {folder}: config.json is not a valid model configuration ({first_line(error)})"
        ) from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(f"model folder {folder}: {config.model_type!r} is not a decoder-only language model")
    shape = config.get_text_config()
    if not hasattr(shape, "num_hidden_layers"):
        raise InputError(
            f"model folder {folder}: config.json ({config.model_type!r}) lacks the number of layers (num_hidden_layers)"
        )
    return config


def _load_network(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, limits: placement_of_layers.Limits | None
) -> PreTrainedModel:
    pickled = [path for path in weight_files(folder) if path.suffix == ".bin"]
    if pickled:
        message = "model folder %s: no safetensors; the weights are read from PyTorch files, tensors only (weights_only)"
        logger.info(message, folder)
        for path in pickled:
            _require_tensors(path)
    # By default, quantised weights would go to a GPU.
    quantised = {} if quantization.bitsandbytes_bits(folder) is None else {"device_map": {"": "cpu"}}
    try:
        network, report = placement_of_layers.from_pretrained(
            folder,
            limits,
            config=config,
            dtype=dtype,
            **quantised,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=not pickled,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they raise an error with their names below
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and model classes raise many types of exceptions
        raise InputError(
            f"model folder {folder}: the weights cannot be loaded ({_corrupted_file(folder)}{first_line(error)})"
        ) from error
    # transformers would initialise missing weights and weights of another size with random numbers and continue.
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"model folder {folder}: the checkpoint lacks {len(missing)} weights, for example {missing[0]}; "
            "use a complete checkpoint"
        )
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    if mismatched:
        raise InputError(
            f"model folder {folder}: the size of {len(mismatched)} weights differs from config.json, "
            f"for example {mismatched[0]}; use the config.json of this checkpoint"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        message = "model folder %s: %d weights are not used because config.json does not include them, for example %s"
        logger.warning(message, folder, len(unused), unused[0])
    activations.fuse(network)
    return network.eval().requires_grad_(False)


def _corrupted_file(folder: Path) -> str:
    """Return ``NAME: `` for the first corrupted safetensors file of a checkpoint; empty if none is corrupted."""
    for path in sorted(path for path in weight_files(folder) if path.suffix == ".safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return f"{path.name}: "
    return ""


def _require_tensors(path: Path) -> None:
    """Reject a pickled file of weights that contains anything but tensors, because unpickling it could run code.

    This check runs no code from the file: torch's restricted unpickler accepts only tensors, plain values and containers of
    them. With the device "meta" it reads no weights.
    """
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} contains objects other than tensors, which could run code, or is corrupted; use safetensors weights"
        ) from error
    except Exception as error:  # a truncated file raises many types of exceptions
        raise InputError(f"model folder {path.parent}: the weights cannot be loaded ({first_line(error)})") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path} is not a dictionary of named tensors; use safetensors weights")


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception objects
        if not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"model folder {folder}: the tokenizer cannot be loaded without tokenizer.json; add it, or save the tokenizer "
                "again with its fast class"
            ) from error
        raise InputError(f"model folder {folder}: the tokenizer cannot be loaded ({first_line(error)})") from error
    _require_fast(f"model folder {folder}", tokenizer)
    return tokenizer


def _require_fast(location: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise InputError(f"{location}: the tokenizer does not return character offsets; use a fast tokenizer (tokenizer.json)")


def require_tokenizer(location: str, tokenizer: Any, network: PreTrainedModel) -> None:
    """Require that a tokenizer is a fast one that fits a model.

    Args:
        location: Beginning of the error message.
        tokenizer: The tokenizer.
        network: The model.

    Raises:
        InputError: It is no tokenizer of transformers, it does not return character offsets, or it has more tokens than the
            model has embeddings.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"{location}: expected a tokenizer of transformers, got {type(tokenizer).__name__}; use the tokenizer of the model"
        )
    _require_fast(location, tokenizer)
    embeddings = network.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise InputError(
            f"{location}: the tokenizer has {len(tokenizer)} tokens, but the model has only {embeddings} embeddings; use the "
            "tokenizer of this model"
        )


@exact_products()
@torch.no_grad()
def require_causal(location: str, network: PreTrainedModel) -> None:
    """Reject a model in which a token changes predictions at earlier positions (an encoder with a language-model head).

    A causal model gives the same numbers in both runs. The tolerance is for non-deterministic kernels.

    Args:
        location: Beginning of the error message.
        network: The model, in evaluation mode.

    Raises:
        InputError: The model is not causal, or its logits are non-finite.
    """
    ids = torch.arange(1, 7, device=device_of(network))[None]  # (1, 6)
    changed = ids.clone()
    changed[0, -1] += 1
    first, second = (network(**forward_inputs(x)).logits[0, :-1] for x in (ids, changed))  # (5, V) each
    if not first.isfinite().all():
        remedy = "check the weights"
        if network.dtype == torch.float16:  # bfloat16 has the range of float32
            remedy = "set dtype to float32 or bfloat16, or check the weights"
        raise InputError(f"{location}: logits are non-finite in {str(network.dtype).removeprefix('torch.')}; {remedy}")
    if (first - second).abs().max() > 1e-3 * first.float().std():
        raise InputError(
            f"{location}: {type(network).__name__} is an encoder (it attends to later tokens); "
            "use a decoder-only language model"
        )
