"""Files of a hub repository, on disk and verified: resumed where they broke off, retried, and every failure a sentence.

Every file that the hub lists comes with what its content must be: the SHA-256 of a large file (LFS), the git blob id of a small
one. Bytes arrive in ``.partial/``, under that name, so that a download that was killed goes on in another process, and a file
of another commit with the same content is not sent again. (The hub's own library starts an interrupted file anew.) What was
verified is written down with size and time of change in ``.verified.json``, so that an unchanged file is not read again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, close_session, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from icl_lens.artifacts.files import whole_file
from icl_lens.errors import InputError
from icl_lens.progress import amount, progress

logger = logging.getLogger(__name__)

# Each request is a line at INFO, with an address that may be signed.
logging.getLogger("httpx2").setLevel(logging.WARNING)

PARTIAL = ".partial"
VERIFIED = ".verified.json"
LOCK = ".lock"

# Bytes asked for in one request: servers of large files send no more than 50 GB at once.
PIECE = 20_000_000_000

# Bytes that must stay free beside what is fetched.
MARGIN = 100_000_000

# A file that arrives whole but wrong is fetched anew once; what happens twice is no accident.
MOST_DAMAGED = 2

# The longest that a server that asks for patience (Retry-After) is given, in seconds.
LONGEST_WISH = 120.0

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Patience:
    """How often a fault that may pass is put up with.

    Attributes:
        attempts: Tries in a row that may bring nothing.
        wait: Seconds before the second; each further wait is twice as long.
        longest: Seconds that a wait has at most.
    """

    attempts: int = 6
    wait: float = 0.5
    longest: float = 30.0


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision.

    Attributes:
        kind: model or dataset.
        hub: ``owner/name``, or a name alone.
        revision: A branch, a tag, or a commit.
    """

    kind: Literal["model", "dataset"]
    hub: str
    revision: str

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return f"{'data set' if self.kind == 'dataset' else self.kind} {self.hub}"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it.

    Attributes:
        size: Its bytes.
        digest: SHA-256 of its content (64 digits), or its git blob id (40 digits).
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository's commit and its files by name."""

    commit: str
    files: dict[str, RemoteFile]


class _PassingError(Exception):
    """A fault that may pass; its text says what happened.

    Attributes:
        brought: Whether something arrived before it.
        wish: Seconds that the server asks to wait.
        advice: What to do when it does not pass.
    """

    def __init__(
        self,
        what: str,
        brought: bool = False,
        wish: float = 0.0,
        advice: str = "the same command goes on from what is here already",
    ) -> None:
        super().__init__(what)
        self.brought = brought
        self.wish = wish
        self.advice = advice


def listing(repository: Repository, patience: Patience) -> Listing:
    """The commit that a revision is, and the files that it holds.

    Raises:
        InputError: The hub cannot be reached, refuses, or has no such repository or revision.
    """
    ask = HfApi(library_name="icl-lens")
    info = ask.model_info if repository.kind == "model" else ask.dataset_info

    def attempt() -> Any:
        with _translated(repository, "its list of files"):
            return info(
                repository.hub, revision=repository.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )

    try:
        found = _persist(attempt, patience, repository)
        commit = str(found.sha)
        files = {
            file.rfilename: RemoteFile(file.lfs.size, file.lfs.sha256) if file.lfs else RemoteFile(int(file.size), file.blob_id)
            for file in found.siblings or []
        }
        if not re.fullmatch("[0-9a-f]{40}", commit) or not all(_DIGEST.fullmatch(file.digest) for file in files.values()):
            raise ValueError("no commit, or no digest")
    except HFValidationError as error:
        raise InputError(f"{repository.hub!r} is no name that a {repository.title} can have: owner/name is needed") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{constants.ENDPOINT} does not answer as a hub does when asked for {repository.title}: check HF_ENDPOINT, "
            "and whether a proxy answers in its place"
        ) from error
    return Listing(commit, files)


class Folder:
    """The folder that a repository's files come to, held by one process at a time (:func:`alone`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = json.loads((path / VERIFIED).read_text(encoding="utf-8"))
            self._verified: dict[str, list] = {k: list(v) for k, v in known["verified"].items() if len(v) == 4}
            self._finished: dict[str, str] = dict(known["finished"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # Nothing is known yet, or nothing that can be used: files that are there are read and compared.
            self._verified, self._finished = {}, {}

    def record(self, request: str) -> str | None:
        """The record that :meth:`finish` kept of a request, where all files are still as they were then."""
        text = self._finished.get(request)
        if text is None:
            return None
        names = json.loads(text)["files"]
        return text if all(self._known(name) for name in names) else None

    def finish(self, request: str, record: str) -> None:
        """Keep a request's record, and drop what interrupted downloads left."""
        self._finished = {request: record}
        self._save()
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)

    def facts(self, name: str, remote: RemoteFile) -> dict[str, Any] | None:
        """Size and SHA-256 of a file that is here whole; None if it must be fetched."""
        known = self._known(name)
        if known is None:
            path = self.path / name
            if not path.is_file() or path.stat().st_size != remote.size:
                return None
            # Whole but unknown: the process died before it was written down, or the folder was copied.
            content = _Content(remote)
            with path.open("rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    content.update(chunk)
            if content.digest != remote.digest:
                return None
            known = self._remember(name, content)
        digest, size, _, sha256 = known
        return {"size": size, "sha256": sha256} if digest == remote.digest else None

    def put(self, name: str, content: _Content, source: Path) -> None:
        """Move a whole, verified file to its place."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        self._remember(name, content)

    def drop_others(self, names: set[str]) -> None:
        """Delete what was fetched here before and is not among these names."""
        for name in sorted(self._verified.keys() - names):
            if self._known(name):
                (self.path / name).unlink()
            del self._verified[name]
        self._save()

    def _known(self, name: str) -> list | None:
        entry = self._verified.get(name)
        path = self.path / name
        if entry is None or not path.is_file():
            return None
        found = path.stat()
        return entry if entry[1:3] == [found.st_size, found.st_mtime_ns] else None

    def _remember(self, name: str, content: _Content) -> list:
        found = (self.path / name).stat()
        self._verified[name] = [content.digest, found.st_size, found.st_mtime_ns, content.sha256]
        self._save()
        return self._verified[name]

    def _save(self) -> None:
        with whole_file(self.path / VERIFIED) as temporary:
            temporary.write_text(json.dumps({"verified": self._verified, "finished": self._finished}), encoding="utf-8")


@contextmanager
def alone(folder: Path, repository: Repository) -> Iterator[Folder]:
    """The folder, while no other process fetches into it; a fault of the disk is a sentence.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / LOCK):
            yield Folder(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            what = f"the disk is full at {folder}: free some, and the same command goes on"
        else:
            what = f"{folder} cannot be written ({error.strerror or error})"
        raise InputError(f"fetching {repository.title}: {what}") from error


def fetch(
    repository: Repository, found: Listing, names: list[str], folder: Folder, patience: Patience
) -> dict[str, dict[str, Any]]:
    """Have some of a repository's files in a folder, whole and verified.

    Args:
        repository: Where they come from.
        found: What the hub says they are.
        names: Which of them.
        folder: Where they go.
        patience: With faults that may pass.

    Returns:
        Each name's size and SHA-256.

    Raises:
        InputError: A name leaves the folder, the disk is too full, the hub refuses, or a fault does not pass.
    """
    for name in names:
        _require_inside(repository, name)
    facts = {name: folder.facts(name, found.files[name]) for name in names}
    missing = [name for name in names if facts[name] is None]
    _require_space(repository, folder.path, [found.files[name] for name in missing])
    for number, name in enumerate(missing, 1):
        what = f"{repository.hub}: {name}" + (f" ({number} of {len(missing)} files)" if len(missing) > 1 else "")
        _fetch_file(repository, found.commit, name, found.files[name], folder, patience, what)
        facts[name] = folder.facts(name, found.files[name])
    return {name: fact for name, fact in facts.items() if fact is not None}


def require_online(repository: Repository) -> None:
    """Refuse where the user has forbidden the network.

    Raises:
        InputError: HF_HUB_OFFLINE is set.
    """
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{repository.title} cannot be fetched because HF_HUB_OFFLINE is set: unset it, or fetch where there is a network "
            "and copy the downloads folder here"
        )


class _Content:
    """Hashes of bytes as they come: SHA-256, and the git blob id where that is what the hub lists."""

    def __init__(self, remote: RemoteFile) -> None:
        self._sha256 = hashlib.sha256()
        self._blob = None
        if len(remote.digest) == 40:
            self._blob = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Take some more bytes."""
        self._sha256.update(chunk)
        if self._blob:
            self._blob.update(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def digest(self) -> str:
        """What the hub lists for this content."""
        return (self._blob or self._sha256).hexdigest()


class _Partial:
    """The bytes of a file that are here so far, on disk and hashed."""

    def __init__(self, path: Path, remote: RemoteFile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self.content = _Content(remote)
        self._remote = remote
        self._stream = path.open("a+b")
        self._stream.seek(0)
        for chunk in iter(lambda: self._stream.read(1 << 20), b""):
            self.content.update(chunk)
            self.size += len(chunk)
        if self.size > remote.size:
            self.restart()

    def append(self, chunk: bytes) -> None:
        """Write some more bytes."""
        self._stream.write(chunk)
        self.content.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget all bytes."""
        self._stream.truncate(0)
        self.content = _Content(self._remote)
        self.size = 0

    def flush(self) -> None:
        """Have the bytes on disk, whatever becomes of this process."""
        self._stream.flush()

    def close(self) -> None:
        """Done."""
        self._stream.close()


def _fetch_file(
    repository: Repository, commit: str, name: str, remote: RemoteFile, folder: Folder, patience: Patience, what: str
) -> None:
    """Fetch one file: on from the bytes that are here, until it is whole and what it should be."""
    partial = _Partial(folder.path / PARTIAL / remote.digest, remote)
    damaged = 0
    try:
        with progress(remote.size, what, unit="byte", done=partial.size) as advance:
            while True:
                while partial.size < remote.size:
                    _persist(lambda: _receive(repository, commit, name, remote, partial, advance), patience, repository)
                if partial.content.digest == remote.digest:
                    break
                damaged += 1
                if damaged == MOST_DAMAGED:
                    partial.restart()
                    raise InputError(
                        f"fetching {repository.title}: {name} arrived {damaged} times with a content that is not the one the "
                        f"hub lists ({remote.digest}): does a proxy change it, or is the disk at fault?"
                    )
                logger.warning("%s is not what the hub lists; it is fetched anew", what)
                advance(-partial.size)
                partial.restart()
        partial.close()
        folder.put(name, partial.content, partial.path)
    finally:
        partial.close()


def _receive(
    repository: Repository,
    commit: str,
    name: str,
    remote: RemoteFile,
    partial: _Partial,
    advance: Callable[[int], None],
) -> None:
    """One request for what is missing of a file."""
    start = partial.size
    stop = min(remote.size, start + PIECE)
    # Not compressed: the bytes are counted, and a range is one of the content.
    headers = build_hf_headers(library_name="icl-lens") | {"Accept-Encoding": "identity"}
    if (start, stop) != (0, remote.size):
        headers["Range"] = f"bytes={start}-{stop - 1}"
    kind = None if repository.kind == "model" else repository.kind
    url = hf_hub_url(repository.hub, name, repo_type=kind, revision=commit)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with (
            _translated(repository, name, lambda: partial.size > start),
            # A redirect to another host, where large files lie, is followed without the token.
            get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # the server sends everything again
                advance(-start)
                partial.restart()
                start = 0
            for chunk in response.iter_bytes():
                chunk = chunk[: remote.size - partial.size]
                partial.append(chunk)
                advance(len(chunk))
                if partial.size == remote.size:
                    return
        if partial.size == start:
            raise _PassingError(f"the hub sends nothing of {name}")
    finally:
        partial.flush()


def _persist(action: Callable[[], Value], patience: Patience, repository: Repository) -> Value:
    """The action's value; a fault that may pass is waited for, and one that does not is a sentence."""
    failures = 0
    while True:
        try:
            return action()
        except _PassingError as fault:
            failures = 1 if fault.brought else failures + 1
            if failures >= patience.attempts:
                times = "once" if failures == 1 else f"{failures} times in a row"
                raise InputError(f"fetching {repository.title}: {fault}, {times}; {fault.advice}") from fault
            wait = max(min(patience.wait * 2 ** (failures - 1), patience.longest), min(fault.wish, LONGEST_WISH))
            logger.info("%s: %s; once more in %.1f s", repository.hub, fault, wait)
            time.sleep(wait)


@contextmanager
def _translated(repository: Repository, name: str, brought: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What the hub's library raises, as a sentence, or as a fault that may pass.

    Args:
        repository: What is asked of.
        name: What is asked for.
        brought: Whether something has arrived.
    """
    title, place = repository.title, f"{constants.ENDPOINT}/{'datasets/' * (repository.kind == 'dataset')}{repository.hub}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        require_online(repository)
        raise InputError(f"{title} cannot be fetched offline") from error
    except GatedRepoError as error:
        raise InputError(
            f"{title} is gated: accept its terms at {place} and set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(_absent(title)) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{title} has no revision {repository.revision!r}: name a branch, a tag or a whole commit that {place} has"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise InputError(f"{title} lists {name} but does not hold it: name another revision") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 416, 429) or status >= 500:
            wish = error.response.headers.get("Retry-After", "")
            what = f"the hub answers {status} when asked for {name}"
            raise _PassingError(what, brought(), float(wish) if wish.isdigit() else 0.0) from error
        if status == 401 and get_token() is None:
            raise InputError(_absent(title)) from error
        if status == 401:
            raise InputError(
                f"the hub refuses the token that is set when asked for {title}: renew HF_TOKEN, or unset it for what is public"
            ) from error
        if status == 403:
            raise InputError(
                f"the token that is set may not read {title}: give it that right, or set HF_TOKEN to another"
            ) from error
        raise InputError(f"the hub answers {status} when asked for {name} of {title}") from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise InputError(f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address (https://...)") from error
    except httpx2.ConnectError as error:
        close_session()  # a connection that could not be made secure would be kept
        raise _PassingError(
            f"{error.request.url.host} cannot be reached ({_first_line(error)})",
            brought(),
            advice="is there a network here, and does it need a proxy (HTTPS_PROXY)?",
        ) from error
    except httpx2.TimeoutException as error:
        raise _PassingError(f"the hub is silent for too long when asked for {name}", brought()) from error
    except httpx2.TransportError as error:
        raise _PassingError(f"the connection breaks off in {name} ({_first_line(error)})", brought()) from error
    except httpx2.HTTPError as error:
        raise InputError(f"fetching {name} of {title} is not possible ({_first_line(error)})") from error


def _absent(title: str) -> str:
    """What is said where the hub does not tell absent from private (to strangers it answers both with 401)."""
    return (
        f"the hub has no {title}, or shows it only to some: check the name, and if it is private or gated set HF_TOKEN to a "
        "token of an account that may read it"
    )


def _require_inside(repository: Repository, name: str) -> None:
    """A name stays inside the folder, and is none of the names that are used there."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)  # ".." among them
    if (
        not parts
        or hidden
        or PurePosixPath(name).as_posix() != name
        or name.startswith("/")
        or re.search(r"[\\:\0-\x1f]", name)
    ):
        raise InputError(
            f"{repository.title} lists a file {name!r}, which could leave the folder it is fetched to; it is refused"
        )


def _require_space(repository: Repository, folder: Path, missing: list[RemoteFile]) -> None:
    """The disk can take what is missing, before the first byte is fetched."""
    here = [folder / PARTIAL / digest for digest in {file.digest for file in missing}]
    needed = sum(file.size for file in missing) - sum(path.stat().st_size for path in here if path.is_file())
    free = shutil.disk_usage(folder).free
    if missing and needed + MARGIN > free:
        raise InputError(
            f"fetching {repository.title} takes {(needed + MARGIN) / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are "
            "free: free some, or name another folder for downloads"
        )
    if missing:
        logger.info("%s: %d files to fetch, %s", repository.hub, len(missing), amount(needed))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
