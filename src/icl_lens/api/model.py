"""Models of the public API: load a checkpoint, or use a model of transformers that is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icl_lens.api import process
from icl_lens.artifacts import hashes
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetch, fetched, gguf_conversion, gguf_files
from icl_lens.models import loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.options import RunOptions
from icl_lens.network import quantized
from icl_lens.network.number_formats import Dtype, Matmul
from icl_lens.organism import CHECKPOINT
from icl_lens.prompts.forms import Anchor, Bos, Chat, Score
from icl_lens.short_repr import short_repr

EMBEDDED = "embedded"
"""Name of the embedded model for :func:`load`."""


@dataclass(frozen=True, repr=False)
class Model:
    """A model, and how studies run it. :func:`icl_lens.load` and :func:`icl_lens.wrap` create it.

    Use ``dataclasses.replace(model, batch_tokens=1024)`` to change how studies run it.

    Attributes:
        language_model: The loaded model, with the attributes ``name``, ``network`` (the model of transformers), ``tokenizer``,
            ``layers``, ``context`` (maximum number of tokens) and ``device``.
        bos: Whether to prepend the BOS token to each prompt: True, False, or "auto" to do what the tokenizer does.
        chat: Whether to format each prompt with the chat template of the tokenizer: True for one turn of the user, "turns" for
            one turn of the user and one of the assistant per demonstration.
        matmul: How to multiply float32 matrices: "exact", or "fast" (TF32 on CUDA, bfloat16 on CPUs that support it).
        batch_tokens: Number of tokens per batch, including padding. It changes results only by rounding.
        label_score: Whether a class is predicted by the first token of its label word ("first") or by the sum of the
            log-probabilities of all its tokens ("whole").
        label_anchor: Which tokens of each label word are anchors, that is, isolated, read and re-weighted: "first", "last" or
            "all".
    """

    language_model: LanguageModel
    bos: Bos = "auto"
    chat: Chat = False
    matmul: str = "exact"
    batch_tokens: int = 4096
    label_score: Score = "first"
    label_anchor: Anchor = "first"

    def __post_init__(self) -> None:
        _require_options(self.options)

    @property
    def name(self) -> str:
        """Name of the model in tables."""
        return self.language_model.name

    @property
    def options(self) -> RunOptions:
        """How studies run the model and write its prompts."""
        return RunOptions(
            bos=self.bos,
            as_chat=self.chat,
            matmul=self.matmul,
            batch_tokens=self.batch_tokens,
            label_score=self.label_score,
            label_anchor=self.label_anchor,
        )

    @contextmanager
    def evaluation(self) -> Iterator[LanguageModel]:
        """Return a context manager in which the model is in evaluation mode with frozen parameters.

        Each study runs inside this context. Afterwards, the training mode and ``requires_grad`` are as before, and so are the
        default number format and device of torch.
        """
        with process.evaluation(self.language_model.network):
            yield self.language_model

    def __repr__(self) -> str:
        model = self.language_model
        heads = model.facts.get("heads")
        shape = f"{model.layers} layers" + (f" of {heads} heads" if heads else "")
        return f"Model({model.name!r}: {model.facts['family']}, {shape}, {model.dtype} on {model.device.type})"


def load(
    source: str | Path,
    revision: str | None = None,
    fetch: bool = False,
    downloads: str | Path = "downloads",
    *,
    name: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    matmul: str = "exact",
    batch_tokens: int = 4096,
    bos: Bos = "auto",
    chat: Chat = False,
    label_score: Score = "first",
    label_anchor: Anchor = "first",
    untrained: int | None = None,
    adapter: str | Path | None = None,
    placement: str = "device",
    max_memory: Mapping[str, str] | None = None,
) -> Model:
    """Load a decoder-only language model.

    Nothing but ``fetch=True`` uses the network. No code of the checkpoint is run.

    Args:
        source: A folder with a checkpoint and its fast tokenizer; a GGUF file, which is converted into ``downloads`` once and
            needs the extra ``gemma``; the name of a Hub model (``owner/name``); or "embedded", the model in this package.
        revision: Branch, tag or commit of a Hub model; main by default.
        fetch: Whether to download a Hub model that is not in ``downloads`` yet.
        downloads: Folder for downloaded and converted models, as in the workflow.
        name: Name of the model in tables; by default the name of the folder, file or Hub model.
        device: "auto" (cuda if available, otherwise cpu), "cpu", "cuda" or "mps".
        dtype: Number format of the weights and activations: "float32", "float16" or "bfloat16".
        matmul: How to multiply float32 matrices: "exact", or "fast" (TF32 on CUDA, bfloat16 on CPUs that support it).
        batch_tokens: Number of tokens per batch, including padding.
        bos: Whether to prepend the BOS token to each prompt: True, False, or "auto" to do what the tokenizer does.
        chat: Whether to format each prompt with the chat template of the tokenizer: True for one turn of the user, "turns" for
            one turn of the user and one of the assistant per demonstration.
        label_score: Whether a class is predicted by the first token of its label word ("first") or by the sum of the
            log-probabilities of all its tokens ("whole").
        label_anchor: Which tokens of each label word are isolated, read and re-weighted: "first", "last" or "all".
        untrained: Seed of random weights that replace those of the checkpoint; by default the weights are kept.
        adapter: Folder of a LoRA adapter that is merged into the weights.
        placement: "device" for a model on one device; "auto" to distribute its layers over all cards, main memory and disk.
        max_memory: With ``placement="auto"``, how much memory the layers may use, for example ``{"0": "60GB"}``.

    Returns:
        The model.

    Raises:
        InputError: The model does not exist, is not in ``downloads`` although ``fetch`` is False, cannot be downloaded or
            converted, has no fast tokenizer or is not supported; or an argument has an invalid value.
    """
    dtype = str(dtype).removeprefix("torch.")
    _require_one_of("dtype", dtype, get_args(Dtype))
    _require_one_of("placement", placement, ("device", "auto"))
    options = RunOptions(
        bos=bos,
        as_chat=chat,
        matmul=matmul,
        batch_tokens=batch_tokens,
        label_score=label_score,
        label_anchor=label_anchor,
    )
    _require_options(options)  # before the model is loaded
    folder = _folder(source, revision, fetch, downloads)
    default_name = EMBEDDED if folder == CHECKPOINT else None
    with process.quiet_and_offline():
        language_model = loading.load(
            folder,
            name=name or default_name,
            device=str(device),
            dtype=dtype,
            untrained_seed=untrained,
            adapter=adapter,
            placement=placement,
            max_memory=max_memory,
        )
    return Model(language_model, bos, chat, matmul, batch_tokens, label_score, label_anchor)


def wrap(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    *,
    matmul: str = "exact",
    batch_tokens: int = 4096,
    bos: Bos = "auto",
    chat: Chat = False,
    label_score: Score = "first",
    label_anchor: Anchor = "first",
) -> Model:
    """Use a decoder-only model of transformers that is in memory.

    The model may be in training mode, on any device, in half precision and quantised by bitsandbytes. It is not copied, and
    after each study its parameters, ``requires_grad``, training mode, hooks and configuration are as before.

    Args:
        network: A model with a language-model head, such as ``AutoModelForCausalLM.from_pretrained`` returns.
        tokenizer: Its fast tokenizer.
        name: Name of the model in tables; by default the last part of ``network.name_or_path``, or the name of its family.
        matmul: See :func:`icl_lens.load`.
        batch_tokens: See :func:`icl_lens.load`.
        bos: See :func:`icl_lens.load`.
        chat: See :func:`icl_lens.load`.
        label_score: See :func:`icl_lens.load`.
        label_anchor: See :func:`icl_lens.load`.

    Returns:
        The model.

    Raises:
        InputError: The model is not a decoder-only language model of transformers, has another number format than float32,
            float16 or bfloat16, or is quantised in another way; or the tokenizer is missing, is not a fast one or is that of
            another model.
    """
    _require_network(network)
    loading.require_tokenizer("tokenizer", tokenizer, network)
    config = network.config
    shape = config.get_text_config()
    given_name = name or Path(str(getattr(network, "name_or_path", ""))).name or config.model_type
    facts = {
        "name": given_name,
        "family": config.model_type,
        "layers": shape.num_hidden_layers,
        "heads": getattr(shape, "num_attention_heads", None),
    }
    dtype = str(network.dtype).removeprefix("torch.")
    language_model = LanguageModel(given_name, network, tokenizer, dtype, facts)
    model = Model(language_model, bos, chat, matmul, batch_tokens, label_score, label_anchor)
    with model.evaluation():
        loading.require_causal("network", network)
        facts["parameters"] = quantized.parameters(network)
    return model


def _folder(source: str | Path, revision: str | None, download: bool, downloads: str | Path) -> Path:
    """Return the folder of a checkpoint. This downloads or converts the model if needed."""
    if not isinstance(source, str | Path) or not str(source):
        raise InputError(f"source must be a folder, a GGUF file or the name of a Hub model, got {short_repr(source)}")
    path = CHECKPOINT if source == EMBEDDED else Path(source).expanduser()
    if revision is not None and path.exists():
        raise InputError(f"{source} is a local {'folder' if path.is_dir() else 'file'} and has no revisions; remove revision")
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        return _converted(path, downloads)
    if path.is_file():
        raise InputError(f"{source} is a file, not a model folder; specify the folder")
    if not fetch.is_hub_id(str(source)):
        raise InputError(f"model folder {source} does not exist, and this is not a valid Hub name (owner/name); check the path")
    folder = fetch.model_folder(downloads, str(source), revision)
    record = fetched.read(folder)
    requested = (str(source), revision or fetch.DEFAULT_REVISION)
    if record is not None and (record.hub, record.revision) != requested:
        raise InputError(
            f"{folder} contains {record.hub} at {record.revision}, which has the same folder name as {requested[0]} at "
            f"{requested[1]}; use another folder for downloads"
        )
    if record is None and not download:
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"model folder {source} does not exist, and the Hub model {source}{at} is not in {downloads}; check the path, or "
            "set fetch=True to download it"
        )
    return fetch.resolve(str(source), revision, downloads)


def _converted(file: Path, downloads: str | Path) -> Path:
    """Return the folder of the checkpoint that a GGUF file is converted to."""
    gguf_files.check(file)
    folder = fetch.local_gguf_folder(downloads, file) / fetch.CONVERTED
    try:
        record = converted.read(folder)
    except InputError:  # corrupted, so the file is converted again
        record = None
    source = (file.name, file.stat().st_size, hashes.cached_file_hash(file))
    if record is None or (record.gguf, record.size, record.sha256) != source:
        gguf_conversion.require_packages()
        with process.quiet_and_offline():
            gguf_conversion.convert(file, folder / converted.RECORD)
    return folder


def _require_network(network: Any) -> None:
    """Check that an object is a decoder-only model of transformers in a supported number format."""
    if not isinstance(network, PreTrainedModel):
        given = network if isinstance(network, str | Path) else type(network).__name__
        remedy = "use icl_lens.load for a checkpoint" if isinstance(network, str | Path) else "pass the model that it contains"
        raise InputError(f"network must be a model of transformers (PreTrainedModel), got {short_repr(given)}; {remedy}")
    config, name = network.config, type(network).__name__
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"network: {name} ({config.model_type!r}) is not a decoder-only language model")
    if network.get_output_embeddings() is None:
        raise InputError(f"network: {name} has no language-model head; load the model with AutoModelForCausalLM")
    dtype = str(network.dtype).removeprefix("torch.")
    if dtype not in get_args(Dtype):
        raise InputError(f"network: the weights are {dtype}; convert them to {', '.join(get_args(Dtype))}")
    if getattr(network, "is_quantized", False):
        _require_quantised(network)


def _require_quantised(network: PreTrainedModel) -> None:
    """Check that quantised weights are those of bitsandbytes, and that the other weights have one number format."""
    if not quantized.is_bitsandbytes(network):
        raise InputError(
            f"network: {type(network).__name__} has quantised weights that are not those of bitsandbytes; use the float weights"
        )
    formats = {str(each.dtype).removeprefix("torch.") for each in network.parameters() if each.is_floating_point()}
    if len(formats) > 1:
        raise InputError(
            f"network: the weights that are not quantised are {' and '.join(sorted(formats))}; load the model with one number "
            "format (the argument dtype of from_pretrained)"
        )


def _require_options(options: RunOptions) -> None:
    """Check how studies run a model."""
    _require_one_of("bos", options.bos, ("auto", True, False))
    _require_one_of("chat", options.as_chat, (False, True, "turns"))
    _require_one_of("matmul", options.matmul, get_args(Matmul))
    _require_one_of("label_score", options.label_score, get_args(Score))
    _require_one_of("label_anchor", options.label_anchor, get_args(Anchor))
    batch_tokens = options.batch_tokens
    if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
        raise InputError(f"batch_tokens must be a positive number of tokens, got {short_repr(batch_tokens)}")


def _require_one_of(argument: str, value: Any, allowed: tuple) -> None:
    if not any(type(value) is type(each) and value == each for each in allowed):
        expected = ", ".join(map(repr, allowed[:-1])) + f" or {allowed[-1]!r}"
        raise InputError(f"{argument} must be {expected}, got {short_repr(value)}")
