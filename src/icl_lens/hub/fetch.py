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

from icl_lens.errors import InputError
from icl_lens.hub import fetched
from icl_lens.hub.checkpoints import DESCRIPTIONS, TOKENIZERS

if TYPE_CHECKING:
    from icl_lens.hub.download import Folder, Listing, Patience, Repository

logger = logging.getLogger(__name__)

DEFAULT_REVISION = "main"

# Maximum number of file names that an error message lists.
_MOST_LISTED = 12

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


def own_gguf_folder(downloads: Path | str, file: Path | str) -> Path:
    """Return the folder of a local GGUF file; the converted checkpoint is in its subfolder :data:`CONVERTED`.

    The folder has the name of the file, and its parent folder is a hash of the file's parent path. Two files with the same
    name in different folders therefore do not share a folder.
    """
    file = Path(file)
    place = hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:12]
    return Path(downloads) / "gguf" / "files" / place / file.name


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
            raise InputError(f"{folder_or_hub_id} is a folder, and a folder has no revisions: leave --revision out")
        return Path(folder_or_hub_id)
    if Path(folder_or_hub_id).is_file():
        how = "`icl-lens convert-gguf` makes one of a GGUF file" if folder_or_hub_id.endswith(".gguf") else "name the folder"
        raise InputError(f"{folder_or_hub_id} is a file, and a model is a folder: {how}")
    if not _is_hub_id(folder_or_hub_id):
        raise InputError(f"model folder {folder_or_hub_id} does not exist, and no model of the hub has such a name")
    folder = model_folder(downloads, folder_or_hub_id, revision)
    asked = (folder_or_hub_id, revision or DEFAULT_REVISION)
    record = fetched.read(folder)
    if record is None:
        command = [sys.executable, "-m", "icl_lens", "fetch-model", "--hub", asked[0], "--revision", asked[1]]
        _run([*command, "--out", str(folder / fetched.RECORD)], folder_or_hub_id)
    elif (record.hub, record.revision) != asked:
        raise InputError(
            f"{folder} holds {record.hub} at {record.revision}, whose folder has the same name as that of {asked[0]} at "
            f"{asked[1]}: name another --downloads"
        )
    return folder


def model(hub: str, revision: str | None, out: Path | str, patience: Patience | None = None) -> None:
    """Download the configuration, tokenizer and weights of a model into the folder of ``out``, and write ``out``.

    Weights are safetensors files or, if the repository has none, PyTorch files. Code is not downloaded.

    Args:
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, tag or commit; main by default.
        out: Path of ``fetched.json`` in the download folder; it is written last.
        patience: Settings for retries.

    Raises:
        InputError: The model cannot be downloaded, or the repository is not a checkpoint.
    """

    def choose(repository: Repository, found: Listing, read: Callable[[str], bytes]) -> list[str]:
        title = f"{repository.title} at {repository.revision}"
        there = found.files.keys()
        if "config.json" not in there:
            raise InputError(f"{title} holds no config.json, so it is no checkpoint{_listed(there)}")
        if not there & set(TOKENIZERS):
            raise InputError(f"{title} holds no tokenizer: tokenizer.json is needed{_listed(there)}")
        described = [
            name for name in (*DESCRIPTIONS, "chat_template.jinja") if name in there and not name.endswith(".index.json")
        ]
        for whole in ("model.safetensors", "pytorch_model.bin"):
            index = f"{whole}.index.json"
            if whole in there:
                return [*described, whole]
            if index in there:
                return [*described, index, *_shards(title, index, read(index), there)]
        raise InputError(
            f"{title} holds no weights that icl-lens reads (model.safetensors or pytorch_model.bin, whole or in shards)"
            f"{_listed(there)}"
        )

    _fetch("model", hub, revision, Path(out), patience, choose)


def gguf(hub: str, revision: str | None, file: str, out: Path | str, patience: Patience | None = None) -> None:
    """Download one GGUF file of a repository into the folder of ``out``, and write ``out``.

    Args:
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, tag or commit; main by default.
        file: Name of the file in the repository.
        out: Path of ``fetched.json`` in the download folder; it is written last.
        patience: Settings for retries.

    Raises:
        InputError: The file cannot be downloaded, or the repository has no file of that name.
    """

    def choose(repository: Repository, found: Listing, read: Callable[[str], bytes]) -> list[str]:
        if file not in found.files:
            others = [name for name in found.files if name.endswith(".gguf")]
            title = f"{repository.title} at {repository.revision}"
            raise InputError(f"{title} holds no file {file!r}{_listed(others, 'no GGUF file')}")
        return [file]

    _fetch("model", hub, revision, Path(out), patience, choose, asked=[file])


def dataset(
    hub: str, revision: str | None, config: str, splits: Sequence[str], out: Path | str, patience: Patience | None = None
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
        patience: Settings for retries.

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

    _fetch("dataset", hub, revision, Path(out), patience, choose, config=config, splits=chosen, asked=splits)


def _fetch(
    kind: str,
    hub: str,
    revision: str | None,
    out: Path,
    patience: Patience | None,
    choose: Callable[[Repository, Listing, Callable[[str], bytes]], list[str]],
    asked: Sequence[str] = (),
    **more,
) -> None:
    from icl_lens.artifacts.files import whole_file
    from icl_lens.hub import download

    if out.name != fetched.RECORD:
        raise InputError(f"--out {out} must be named {fetched.RECORD}, in the folder that the files go to")
    _folder_name(hub)  # raises for an invalid name before any network request
    revision = revision or DEFAULT_REVISION
    _revision_name(revision)
    repository = download.Repository(kind, hub, revision)
    patience = patience or download.Patience()
    request = json.dumps([kind, hub, revision, more.get("config"), list(asked)])
    with download.alone(out.parent, repository) as folder:
        # A commit is immutable, so a completed download of it needs no network access.
        record = folder.record(request) if re.fullmatch("[0-9a-f]{40}", revision) else None
        if record is None:
            download.require_online(repository)
            found = download.listing(repository, patience)

            def read(name: str) -> bytes:
                download.fetch(repository, found, [name], folder, patience)
                return (folder.path / name).read_bytes()

            if out.is_file() and found.commit not in out.read_text(encoding="utf-8", errors="replace"):
                out.unlink()  # the old record is stale once files of another commit are downloaded
            names = choose(repository, found, read)
            files = download.fetch(repository, found, names, folder, patience)
            folder.drop_others(set(names))
            _require_no_others(folder, names)
            record = fetched.Fetched(hub, revision, found.commit, files, **more).text()
            folder.finish(request, record)
        with whole_file(out) as temporary:
            temporary.write_text(record, encoding="utf-8")
    logger.info("%s is whole in %s, at commit %s", repository.title, out.parent, json.loads(record)["commit"])


def _shards(title: str, index: str, content: bytes, there: Iterable[str]) -> list[str]:
    """Return the names of the weight files that an index lists, sorted.

    Raises:
        InputError: The index is invalid, or it lists a file with an unexpected name or a missing file.
    """
    try:
        names = sorted(set(json.loads(content)["weight_map"].values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("no file")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{title}: {index} is no index of weights") from error
    suffix = ".safetensors" if "safetensors" in index else ".bin"
    for name in names:
        # Weights must be in the same folder as their index.
        if not re.fullmatch(r"\w[\w.-]*", name) or not name.endswith(suffix):
            raise InputError(f"{title}: {index} names {name!r}, which is no {suffix} file beside it; it is refused")
        if name not in there:
            raise InputError(f"{title}: {index} names {name}, which is not there{_listed(there)}")
    return names


def _split_files(repository: Repository, there: list[str], config: str, split: str) -> list[str]:
    """Return the Parquet files of a split, in order.

    Raises:
        InputError: The files are missing, incomplete or in more than one layout.
    """
    c, s = re.escape(config), re.escape(split)
    layouts = [rf"{c}/{s}/[^/]+\.parquet", rf"{c}/{s}-\d[^/]*\.parquet"]
    if config == "default":
        layouts.append(rf"data/{s}-\d[^/]*\.parquet")
    matches = [[name for name in there if re.fullmatch(layout, name)] for layout in layouts]
    matches = [names for names in matches if names]
    title = f"{repository.title} at {repository.revision}"
    if len(matches) != 1:
        parquet = {_split_name(name) for name in there if name.endswith(".parquet")}
        what = "Parquet files in two places" if matches else "no Parquet files"
        hint = (
            ""
            if matches or repository.revision == "refs/convert/parquet"
            else "; the revision refs/convert/parquet may have them"
        )
        raise InputError(f"{title} has {what} of split {split!r} of configuration {config!r}{_listed(parquet)}{hint}")
    (names,) = matches
    counts = {int(count) for name in names for count in re.findall(r"-of-(\d+)", name)}
    if counts and counts != {len(names)}:
        raise InputError(
            f"{title} holds {len(names)} of the {max(counts)} files of split {split!r} of configuration {config!r}"
        )
    return names


def _split_name(name: str) -> str:
    """Return ``sst2/train`` for ``sst2/train-00000-of-00001.parquet`` and for ``sst2/train/0000.parquet``."""
    stem = name.removesuffix(".parquet")
    shorter = re.sub(r"-\d[^/]*$", "", stem)
    return shorter if shorter != stem else stem.rpartition("/")[0] or stem


def _require_no_others(folder: Folder, names: Iterable[str]) -> None:
    """Require that the folder contains no other weight files, because they would be loaded as weights of the model.

    Raises:
        InputError: The folder contains a weight file that was not downloaded.
    """
    kept = set(names)
    found = [path.name for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.path.glob(pattern)]
    strange = sorted(set(found) - kept)
    if strange:
        raise InputError(f"{folder.path} also holds {strange[0]}, which was not fetched: move it away, or name an empty folder")


def _run(command: list[str], name: str) -> None:
    """Run a fetch command, forward its stderr line by line, and raise its error message in this process.

    Raises:
        InputError: The command fails.
    """
    prefix, sentence = f"icl-lens {command[3]}: ", None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if line.startswith(prefix):
                sentence = line.removeprefix(prefix).strip()
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
    if sentence is not None:
        raise InputError(f"model folder {name} does not exist, and it cannot be fetched from the hub: {sentence}")
    if process.returncode:
        raise InputError(
            f"model folder {name} does not exist, and fetching it from the hub ended with status {process.returncode}"
        )


def _is_hub_id(text: str) -> bool:
    # "--" separates owner and name in the folder name; the Hub allows neither "--" nor ".." in a repository name.
    return bool(re.fullmatch(rf"(?:{_NAME}/)?{_NAME}", text, re.ASCII)) and "--" not in text and ".." not in text


def _folder_name(hub: str) -> str:
    if not _is_hub_id(hub):
        raise InputError(f"{hub!r} is no name that a repository of the hub can have: owner/name is needed")
    return hub.replace("/", "--")


def _revision_name(revision: str | None) -> str:
    revision = revision or DEFAULT_REVISION
    if not re.fullmatch(r"\w(?:[\w./+-]*\w)?", revision, re.ASCII) or ".." in revision or "//" in revision:
        raise InputError(f"{revision!r} is no name that a revision can have: a branch, a tag or a whole commit is needed")
    return revision.replace("/", "--")


def _require_plain(what: str, name: str) -> None:
    if not name or name.startswith(".") or re.search(r'[<>:"/\\|?*\0-\x1f]', name):
        raise InputError(f"{name!r} is no name that a {what} of a data set can have")


def _listed(names: Iterable[str], nothing: str = "none") -> str:
    """Return the end of an error message that lists file names."""
    names = sorted(names)
    if not names:
        return f"; it holds {nothing}"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"; it holds {', '.join(names[:_MOST_LISTED])}{more}"
