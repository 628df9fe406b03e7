"""Conversion of a GGUF file into a checkpoint folder (safetensors and tokenizer files) that studies read like any other.

transformers dequantises the weights and rebuilds the tokenizer from the file's vocabulary. The conversion writes the files to a
folder ``.partial`` and then moves them to the checkpoint folder, config.json last. A folder without config.json is not a
checkpoint, so an interrupted conversion does not leave an incomplete checkpoint. Rerun the command to start it again.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_lens.artifacts import hashes
from icl_lens.artifacts.files import error_number, refusal, whole_file
from icl_lens.errors import InputError
from icl_lens.hub import converted, fetched, gguf_files, packages
from icl_lens.hub.checkpoints import description_files
from icl_lens.hub.converted import RECORD, RECORD_COPY, Converted
from icl_lens.progress import amount

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
LOCK = ".lock"

# Packages that transformers needs to convert GGUF files. They are optional; see `gemma` in pyproject.toml.
PACKAGES = ("gguf",)

# Libraries with versions that can affect the output files.
LIBRARIES = ("accelerate", "gguf", "numpy", "safetensors", "tokenizers", "torch", "transformers")

# Free disk space in bytes that is required in addition to the weights and a copy of the file. It includes the tokenizer files.
MARGIN = 100_000_000


def require_packages() -> None:
    """Require that the optional packages are installed.

    Raises:
        InputError: A package is not installed. The message contains the installation command.
    """
    packages.require(PACKAGES, "converting a GGUF file needs", "gemma")


def convert(file: Path | str, out: Path | str, fetched_to: Path | str | None = None) -> None:
    """Convert a GGUF file to float32 weights, configuration and tokenizer in the folder of ``out``, and write ``out``.

    If the folder already contains an intact conversion of the file, the file is not converted again. The conversion needs at
    most twice the size of the float32 weights in memory.

    Args:
        file: Path of the GGUF file.
        out: Path of ``converted.json`` in the output folder; it is written last.
        fetched_to: Folder that the file was fetched to, if it was fetched. The file must match the record in that folder.

    Raises:
        InputError: The file cannot be used (see :func:`icl_lens.hub.gguf_files.check`) or differs from the fetched file;
            transformers cannot convert it; an optional package is not installed; or the folder cannot be written.
    """
    file, out = Path(file), Path(out)
    if out.name != RECORD:
        raise InputError(f"--out must be the path of {RECORD} in the output folder, got {out}")
    header = gguf_files.check(file)
    origin = _origin(file, fetched_to)
    source = {"gguf": file.name, "size": file.stat().st_size, "sha256": hashes.cached_file_hash(file)}
    if origin and origin.pop("sha256") != source["sha256"]:
        raise InputError(
            f"{file} differs from the fetched file (its SHA-256 is {source['sha256']}); delete it and "
            f"{Path(fetched_to or '') / fetched.RECORD}, and rerun the command to fetch it again"
        )
    from huggingface_hub.utils import WeakFileLock

    folder = out.parent
    with _translate_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / LOCK):
            record = _existing_conversion(folder, source)
            if record is None:
                require_packages()
                _require_no_other_model(folder)
                _require_space(folder, header, source["size"])
                out.unlink(missing_ok=True)  # the old record is stale once conversion starts
                files = _convert(file, header, folder)
                versions = {name: metadata.version(name) for name in LIBRARIES}
                record = Converted(
                    **source, **origin, **{"architecture": header.architecture, "quantisation": header.quantisation},
                    libraries=versions, files=files,
                )  # fmt: skip
                _move(folder, record)
            else:
                logger.info("%s is already converted; its files in %s are intact", file.name, folder)
            with whole_file(out) as temporary:
                temporary.write_text(record.text(), encoding="utf-8")
    logger.info("%s (%s) is converted; the checkpoint is in %s", file.name, record.quantisation, folder)


def _origin(file: Path, fetched_to: Path | str | None) -> dict[str, Any]:
    """Return the hub, revision, commit and expected SHA-256 of a fetched file, or an empty dict for a local file."""
    if fetched_to is None:
        return {}
    record = fetched.read(fetched_to)
    name = file.relative_to(fetched_to).as_posix() if file.is_relative_to(fetched_to) else file.name
    if record is None or name not in record.files:
        raise InputError(f"{fetched_to} contains no {name} fetched from the Hub; run `icl-lens fetch-model --gguf` to fetch it")
    return {"hub": record.hub, "revision": record.revision, "commit": record.commit, "sha256": record.files[name]["sha256"]}


def _existing_conversion(folder: Path, source: dict[str, Any]) -> Converted | None:
    """Return the record of an earlier conversion of the same file if all its output files are intact, else None."""
    try:
        record = converted.read(folder)
    except InputError:  # corrupted, so the file is converted again
        return None
    if record is None or any(getattr(record, key) != value for key, value in source.items()):
        return None
    intact = all(hashes.file_hash(folder / name) == file["sha256"] for name, file in record.files.items())
    return record if intact else None


def _convert(file: Path, header: gguf_files.Header, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the converted files to ``.partial`` in the folder, and return the size and SHA-256 of each."""
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    # A folder that contains only this file ensures that transformers does not read other files, such as another tokenizer.
    original, small, output = partial / "original", partial / "small", partial / "output"
    for directory in (original, small, output):
        directory.mkdir(parents=True)
    (original / file.name).symlink_to(file.resolve())
    gguf_files.write_without_vocabulary(file, header, small / file.name)
    summary = f"{file.name}: {header.architecture}, {header.quantisation}, {header.parameters:,} weights"
    logger.info("%s; float32 weights take %s", summary, amount(4 * header.parameters))
    with _step("1 of 4, the configuration", file, header):
        config = _config(original, small, file, header)
    # Weights are converted before the tokenizer, because memory that the vocabulary leaves in use would increase the peak.
    with _step("2 of 4, the weights", file, header):
        _write_weights(small, file, config, output)
    gc.collect()
    with _step("3 of 4, the tokenizer (a large vocabulary takes a minute)", file, header):
        _write_tokenizer(original, file.name, output)
    with _step("4 of 4, the hashes of the output files", file, header):
        paths = sorted(path for path in output.rglob("*") if path.is_file())
        for path in paths:  # safetensors files are readable only by their owner
            path.chmod((output / "config.json").stat().st_mode)
        return {
            path.relative_to(output).as_posix(): {"size": path.stat().st_size, "sha256": hashes.file_hash(path)}
            for path in paths
        }


@contextmanager
def _step(name: str, file: Path, header: gguf_files.Header) -> Iterator[None]:
    """Log a step and its duration, and turn an exception of transformers into a one-line error.

    Raises:
        InputError: transformers cannot convert the file.
    """
    logger.info("step %s", name)
    start = time.monotonic()
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # transformers, gguf and tokenizers raise many types of exceptions
        if error_number(error) is not None:
            raise  # a disk error; an error that transformers itself raises has no number
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"GGUF file {file}: transformers {metadata.version('transformers')} cannot convert it (architecture "
            f"{header.architecture!r}; {first}); use safetensors weights of the model, or another GGUF file"
        ) from error
    logger.info("step %s: %.0f s", name.partition(",")[0], time.monotonic() - start)


def _config(original: Path, small: Path, file: Path, header: gguf_files.Header) -> PreTrainedConfig:
    """Return the model's configuration, read from the copy without the vocabulary if possible, else from the original file."""
    import transformers

    def read_config(folder: Path) -> PreTrainedConfig:
        return transformers.AutoConfig.from_pretrained(
            folder, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )

    try:
        config = read_config(small)
    except Exception:  # some architectures need the vocabulary; any other error is raised again below
        config = read_config(original)
    else:
        # As in transformers: use the stated size if transformers reads it for this architecture, else the vocabulary's length.
        if config.vocab_size != header.vocab_size:
            config.vocab_size = header.entries
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(f"GGUF file {file}: {header.architecture!r} is not a decoder-only language model; use one that is")
    return config


def _write_tokenizer(original: Path, name: str, output: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(original, gguf_file=name, local_files_only=True, trust_remote_code=False)
    tokenizer.save_pretrained(output)


def _write_weights(small: Path, file: Path, config: PreTrainedConfig, output: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    network, report = AutoModelForCausalLM.from_pretrained(
        small,
        gguf_file=file.name,
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"GGUF file {file} lacks {len(missing)} weights of its architecture, such as {missing[0]}; use another file"
        )
    # The weights are dequantised. save_pretrained would fail if the model were still marked as quantised.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.save_pretrained(output)


def _move(folder: Path, record: Converted) -> None:
    """Move the converted files to the folder.

    A folder without config.json is not a checkpoint, so the old config.json is deleted first and the new one is moved last.
    """
    output = folder / PARTIAL / "output"
    (folder / "config.json").unlink(missing_ok=True)
    for name in _previous_files(folder) - {"config.json"}:
        (folder / name).unlink(missing_ok=True)
    # The record is moved first, so that it lists the files that an interrupted conversion leaves in the folder.
    (output / RECORD_COPY).write_text(record.text(), encoding="utf-8")
    for name in (RECORD_COPY, *sorted(record.files.keys() - {"config.json"}), "config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).replace(folder / name)
    shutil.rmtree(folder / PARTIAL)


def _previous_files(folder: Path) -> set[str]:
    """Return the names of the files that an earlier conversion wrote to the folder."""
    try:
        names = json.loads((folder / RECORD_COPY).read_text(encoding="utf-8"))["files"].keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()
    return {name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute()}


def _require_no_other_model(folder: Path) -> None:
    """Require that the folder contains no files of another model.

    Such files would be mixed with the converted files or be overwritten.

    Raises:
        InputError: The folder contains a model file that no conversion wrote.
    """
    weights = (path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    found = {path.relative_to(folder).as_posix() for path in (*description_files(folder), *weights)}
    unexpected = sorted(found - _previous_files(folder))
    if unexpected:
        raise InputError(f"{folder} also contains {unexpected[0]}, which no conversion wrote; move it, or use an empty folder")


def _require_space(folder: Path, header: gguf_files.Header, size: int) -> None:
    needed, free = 4 * header.parameters + size + MARGIN, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"converting needs {needed / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are free; free some space, or "
            "use another folder for downloads"
        )


@contextmanager
def _translate_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk error into a one-line error.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    try:
        yield
    except Exception as error:  # also exceptions of the libraries, see error_number
        problem = refusal(error, folder)
        if problem is None and not (isinstance(error, OSError) and error.errno is not None):
            raise
        problem = problem or f"{folder} cannot be written ({error}); use another folder"
        raise InputError(f"converting a GGUF file: {problem}") from error
