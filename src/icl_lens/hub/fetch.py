"""Download of models and data sets from the Hub; no other module of icl-lens uses the network.

Each repository has its own folder:

* a model: ``downloads/models/{owner}--{name}/{revision}``;
* a configuration of a data set: ``downloads/datasets/{owner}--{name}/{revision}/{config}``;
* a single GGUF file: ``downloads/gguf/{owner}--{name}/{revision}/{file}``.

The record ``fetched.json`` (:mod:`icl_lens.hub.fetched`) is written to this folder last. A workflow depends on the record, not
on the files, so the files of an interrupted download are kept. Rerun the command to resume. All later steps read the folders
with Hub access disabled.

The Hub's library is imported only for a download, so that computing folder names is fast.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_lens import json_text
from icl_lens.errors import InputError
from icl_lens.hub import fetched, quantization
from icl_lens.hub.checkpoints import VOCABULARY_FILES, is_description

if TYPE_CHECKING:
    from icl_lens.hub.download import Folder, Listing, Repository, RetryPolicy

logger = logging.getLogger(__name__)

DEFAULT_REVISION = "main"

# Maximum number of file names that an error message lists.
_MAX_LISTED = 12

# Name of the folder with the converted checkpoint, inside the folder of a GGUF file.
CONVERTED = "converted"

_NAME = r"[A-Za-z0-9](?:[\w.-]*\w)?"


def model_folder(downloads: Path | str, hub: str, revision: str | None = None) -> Path:
    """Return the download folder of a Hub model.

    Raises:
        InputError: The name of the repository or revision is invalid.
    """
    return Path(downloads) / "models" / _folder_name(hub) / _revision_name(revision)


def dataset_folder(downloads: Path | str, hub: str, revision: str | None = None, config: str = "default") -> Path:
    """Return the download folder of one configuration of a Hub data set.

    Raises:
        InputError: The name of the repository, revision or configuration is invalid.
    """
    _require_plain("configuration", config)
    return Path(downloads) / "datasets" / _folder_name(hub) / _revision_name(revision) / config


def gguf_folder(downloads: Path | str, hub: str, revision: str | None, file: str) -> Path:
    """Return the download folder of a GGUF file from the Hub; the converted checkpoint is in its subfolder :data:`CONVERTED`.

    Raises:
        InputError: The name of the repository or revision is invalid.
    """
    return Path(downloads) / "gguf" / _folder_name(hub) / _revision_name(revision) / file.replace("/", "--")


def local_gguf_folder(downloads: Path | str, file: Path | str) -> Path:
    """Return the folder of a local GGUF file; the converted checkpoint is in its subfolder :data:`CONVERTED`.

    The folder has the name of the file, and its parent folder is a hash of the file's parent path. Two files with the same
    name in different folders therefore do not share a folder.
    """
    file = Path(file)
    parent_hash = hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:12]
    return Path(downloads) / "gguf" / "files" / parent_hash / file.name


def resolve(folder_or_hub_id: str, revision: str | None = None, downloads: Path | str = "downloads") -> Path:
    """Return the folder of a model, and download the model if needed.

    The download runs in another process, so that this process can stay offline.

    Args:
        folder_or_hub_id: A model folder, or a Hub id (``owner/name``, or a name without an owner).
        revision: A branch, tag or commit on the Hub; main by default.
        downloads: Folder for downloads.

    Raises:
        InputError: ``folder_or_hub_id`` is not a folder and cannot be downloaded, or a revision is given for a folder.
    """
    if Path(folder_or_hub_id).is_dir():
        if revision is not None:
            raise InputError(f"{folder_or_hub_id} is a local folder and has no revisions; remove --revision")
        return Path(folder_or_hub_id)
    if Path(folder_or_hub_id).is_file():
        remedy = "convert it with `icl-lens convert-gguf`" if folder_or_hub_id.endswith(".gguf") else "specify the folder"
        raise InputError(f"{folder_or_hub_id} is a file, not a model folder; {remedy}")
    if not is_hub_id(folder_or_hub_id):
        raise InputError(
            f"model folder {folder_or_hub_id} does not exist, and this is not a valid Hub name (owner/name); check the path"
        )
    folder = model_folder(downloads, folder_or_hub_id, revision)
    requested = (folder_or_hub_id, revision or DEFAULT_REVISION)
    record = fetched.read(folder)
    if record is None:
        command = [sys.executable, "-m", "icl_lens", "fetch-model", "--hub", requested[0], "--revision", requested[1]]
        _run([*command, "--out", str(folder / fetched.RECORD)], folder_or_hub_id)
    elif (record.hub, record.revision) != requested:
        raise InputError(
            f"{folder} contains {record.hub} at {record.revision}, which has the same folder name as {requested[0]} at "
            f"{requested[1]}; use another --downloads"
        )
    return folder


def model(hub: str, revision: str | None, out: Path | str, retries: RetryPolicy | None = None) -> None:
    """Download the configuration, tokenizer and weights of a model into the folder of ``out``, and write ``out``.

    Weights are safetensors files or, if the repository has none, PyTorch files. Code is not downloaded.

    Args:
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, tag or commit; main by default.
        out: Path of ``fetched.json`` in the download folder; it is written last.
        retries: Settings for retries.

    Raises:
        InputError: The model cannot be downloaded, or the repository is not a checkpoint.
    """

    def choose(repository: Repository, found: Listing, read: Callable[[str], bytes]) -> list[str]:
        title = f"{repository.title} at {repository.revision}"
        available = found.files.keys()
        if "config.json" not in available:
            raise InputError(f"{title} is not a checkpoint: config.json is missing{_contents(available)}")
        quantization.require_supported_config(read("config.json"), title)
        if not available & set(VOCABULARY_FILES):
            raise InputError(f"{title} has no tokenizer, such as tokenizer.json{_contents(available)}")
        descriptions = sorted(name for name in available if is_description(name) and not name.endswith(".index.json"))
        for weights in ("model.safetensors", "pytorch_model.bin"):
            index = f"{weights}.index.json"
            if weights in available:
                return [*descriptions, weights]
            if index in available:
                return [*descriptions, index, *_shards(title, index, read(index), available)]
        raise InputError(
            f"{title} has no supported weights (model.safetensors or pytorch_model.bin, whole or in shards)"
            f"{_contents(available)}"
        )

    _fetch("model", hub, revision, Path(out), retries, choose)


def gguf(hub: str, revision: str | None, file: str, out: Path | str, retries: RetryPolicy | None = None) -> None:
    """Download one GGUF file of a repository into the folder of ``out``, and write ``out``.

    Args:
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, tag or commit; main by default.
        file: Name of the file in the repository.
        out: Path of ``fetched.json`` in the download folder; it is written last.
        retries: Settings for retries.

    Raises:
        InputError: The file cannot be downloaded, or the repository has no file of that name.
    """

    def choose(repository: Repository, found: Listing, read: Callable[[str], bytes]) -> list[str]:
        if file not in found.files:
            gguf_files = [name for name in found.files if name.endswith(".gguf")]
            title = f"{repository.title} at {repository.revision}"
            raise InputError(f"{title} has no file {file!r}{_contents(gguf_files, 'no GGUF files')}")
        return [file]

    _fetch("model", hub, revision, Path(out), retries, choose, requested=[file])


def dataset(
    hub: str, revision: str | None, config: str, splits: Sequence[str], out: Path | str, retries: RetryPolicy | None = None
) -> None:
    """Download the Parquet files of splits of a data set configuration into the folder of ``out``, and write ``out``.

    Files are found by the layouts that the Hub uses: ``{config}/{split}/*.parquet`` (as on the branch refs/convert/parquet),
    ``{config}/{split}-*.parquet`` and, for the configuration "default", ``data/{split}-*.parquet``.

    Args:
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, tag or commit; main by default.
        config: Name of the configuration.
        splits: Names of the splits.
        out: Path of ``fetched.json`` in the download folder; it is written last.
        retries: Settings for retries.

    Raises:
        InputError: The data set cannot be downloaded, or the Parquet files of a split are missing, incomplete or in more than
            one layout.
    """
    splits = list(dict.fromkeys(splits))
    _require_plain("configuration", config)
    for split in splits:
        _require_plain("split", split)
    chosen: dict[str, list[str]] = {}

    def choose(repository: Repository, found: Listing, read: Callable[[str], bytes]) -> list[str]:
        chosen.update({split: _split_files(repository, sorted(found.files), config, split) for split in splits})
        return [name for names in chosen.values() for name in names]

    _fetch("dataset", hub, revision, Path(out), retries, choose, config=config, splits=chosen, requested=splits)


def _fetch(
    kind: str,
    hub: str,
    revision: str | None,
    out: Path,
    retries: RetryPolicy | None,
    choose: Callable[[Repository, Listing, Callable[[str], bytes]], list[str]],
    requested: Sequence[str] = (),
    **more,
) -> None:
    from icl_lens.artifacts.files import whole_file
    from icl_lens.hub import download

    if out.name != fetched.RECORD:
        raise InputError(f"--out must be the path of {fetched.RECORD} in the download folder, got {out}")
    _folder_name(hub)  # raises for an invalid name before any network request
    revision = revision or DEFAULT_REVISION
    _revision_name(revision)
    repository = download.Repository(kind, hub, revision)
    retries = retries or download.RetryPolicy()
    request = json.dumps([kind, hub, revision, more.get("config"), list(requested)])
    with download.locked(out.parent, repository) as folder:
        # A commit is immutable, so a completed download of it needs no network access.
        record = folder.record(request) if re.fullmatch("[0-9a-f]{40}", revision) else None
        if record is None:
            download.require_online(repository)
            found = download.listing(repository, retries)

            def read(name: str) -> bytes:
                download.fetch(repository, found, [name], folder, retries)
                return (folder.path / name).read_bytes()

            if out.is_file() and found.commit not in out.read_text(encoding="utf-8", errors="replace"):
                out.unlink()  # the old record is stale once files of another commit are downloaded
            names = choose(repository, found, read)
            files = download.fetch(repository, found, names, folder, retries)
            folder.delete_others(set(names))
            _require_no_other_weights(folder, names)
            record = fetched.Fetched(hub, revision, found.commit, files, **more).text()
            folder.finish(request, record)
        with whole_file(out) as temporary:
            temporary.write_text(record, encoding="utf-8")
    logger.info("%s is complete in %s, at commit %s", repository.title, out.parent, json.loads(record)["commit"])


def _shards(title: str, index: str, content: bytes, available: Iterable[str]) -> list[str]:
    """Return the names of the weight files that an index lists, sorted.

    Raises:
        InputError: The index is invalid, or it lists a file with an unexpected name or a missing file.
    """
    try:
        names = sorted(set(json_text.loads(content)["weight_map"].values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("no file names")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{title}: {index} is not a valid weight index; use another revision") from error
    suffix = ".safetensors" if "safetensors" in index else ".bin"
    for name in names:
        # Weights must be in the same folder as their index.
        if not re.fullmatch(r"\w[\w.-]*", name) or not name.endswith(suffix):
            raise InputError(
                f"{title}: {index} lists {name!r}, which is not a {suffix} file in its folder; use another revision"
            )
        if name not in available:
            raise InputError(f"{title}: {index} lists {name}, but the file is missing{_contents(available)}")
    return names


def _split_files(repository: Repository, available: list[str], config: str, split: str) -> list[str]:
    """Return the Parquet files of a split, in order.

    Raises:
        InputError: The files are missing, incomplete or in more than one layout.
    """
    c, s = re.escape(config), re.escape(split)
    layouts = [rf"{c}/{s}/[^/]+\.parquet", rf"{c}/{s}-\d[^/]*\.parquet"]
    if config == "default":
        layouts.append(rf"data/{s}-\d[^/]*\.parquet")
    matches = [[name for name in available if re.fullmatch(layout, name)] for layout in layouts]
    matches = [names for names in matches if names]
    title = f"{repository.title} at {repository.revision}"
    if len(matches) != 1:
        parquet = {_split_name(name) for name in available if name.endswith(".parquet")}
        problem = "Parquet files in more than one layout" if matches else "no Parquet files"
        hint = "" if matches or repository.revision == "refs/convert/parquet" else "; try the revision refs/convert/parquet"
        raise InputError(
            f"{title} has {problem} for split {split!r} of configuration {config!r}"
            f"{_contents(parquet, 'no Parquet files')}{hint}"
        )
    (names,) = matches
    counts = {int(count) for name in names for count in re.findall(r"-of-(\d+)", name)}
    if counts and counts != {len(names)}:
        raise InputError(
            f"{title} has only {len(names)} of the {max(counts)} files of split {split!r} of configuration {config!r}"
        )
    return names


def _split_name(name: str) -> str:
    """Return ``sst2/train`` for ``sst2/train-00000-of-00001.parquet`` and for ``sst2/train/0000.parquet``."""
    stem = name.removesuffix(".parquet")
    shorter = re.sub(r"-\d[^/]*$", "", stem)
    return shorter if shorter != stem else stem.rpartition("/")[0] or stem


def _require_no_other_weights(folder: Folder, names: Iterable[str]) -> None:
    """Require that the folder contains no other weight files, because they would be loaded as weights of the model.

    Raises:
        InputError: The folder contains a weight file that was not downloaded.
    """
    downloaded = set(names)
    found = [path.name for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.path.glob(pattern)]
    unexpected = sorted(set(found) - downloaded)
    if unexpected:
        raise InputError(f"{folder.path} also contains {unexpected[0]}, which was not fetched; move it, or use an empty folder")


def _run(command: list[str], name: str) -> None:
    """Run a fetch command, forward its stderr line by line, and raise its error message in this process.

    Raises:
        InputError: The command fails.
    """
    prefix, message = f"icl-lens {command[3]}: ", None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if line.startswith(prefix):
                message = line.removeprefix(prefix).strip()
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
    if message is not None:
        raise InputError(f"model folder {name} does not exist, and {name} cannot be fetched from the Hub: {message}")
    if process.returncode:
        raise InputError(
            f"model folder {name} does not exist, and fetching {name} from the Hub failed (exit status {process.returncode})"
        )


def is_hub_id(text: str) -> bool:
    """Return whether a text can be the name of a repository on the Hub."""
    # "--" separates owner and name in the folder name; the Hub allows neither "--" nor ".." in a repository name.
    return bool(re.fullmatch(rf"(?:{_NAME}/)?{_NAME}", text, re.ASCII)) and "--" not in text and ".." not in text


def _folder_name(hub: str) -> str:
    if not is_hub_id(hub):
        raise InputError(f"{hub!r} is not a valid name of a Hub repository; use owner/name")
    return hub.replace("/", "--")


def _revision_name(revision: str | None) -> str:
    revision = revision or DEFAULT_REVISION
    if not re.fullmatch(r"\w(?:[\w./+-]*\w)?", revision, re.ASCII) or ".." in revision or "//" in revision:
        raise InputError(f"{revision!r} is not a valid revision; use a branch, a tag or a full commit hash")
    return revision.replace("/", "--")


def _require_plain(kind: str, name: str) -> None:
    if not name or name.startswith(".") or re.search(r'[<>:"/\\|?*\0-\x1f]', name):
        raise InputError(f"{name!r} is not a valid name of a {kind} of a data set")


def _contents(names: Iterable[str], if_empty: str = "no files") -> str:
    """Return the end of an error message that lists file names."""
    names = sorted(names)
    if not names:
        return f"; it contains {if_empty}"
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"; it contains {', '.join(names[:_MAX_LISTED])}{more}"
