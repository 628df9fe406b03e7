"""Download and verification of the files of a Hub repository, with resume, retries and one-line errors.

The Hub lists a digest for each file: the SHA-256 of a large file (LFS), or the git blob id of a small file. A download is first
written to ``.partial/`` under its digest, so that another process can resume an interrupted download, and a file of another
commit with the same content is not downloaded again. (The Hub's library restarts an interrupted file from the beginning.) The
digest, size and modification time of each verified file are stored in ``.verified.json``, so that unchanged files are not read
again.
"""

from __future__ import annotations

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

from icl_lens import json_text
from icl_lens.artifacts.files import refusal, whole_file
from icl_lens.errors import InputError
from icl_lens.progress import amount, progress

logger = logging.getLogger(__name__)

# At level INFO, httpx2 logs each request with its URL, which may contain a signature.
logging.getLogger("httpx2").setLevel(logging.WARNING)

PARTIAL = ".partial"
VERIFIED = ".verified.json"
LOCK = ".lock"

# Maximum number of bytes per request. Servers of large files send at most 50 GB per request.
MAX_REQUEST = 20_000_000_000

# Free disk space in bytes that is required in addition to the downloads.
MARGIN = 100_000_000

# Number of complete downloads of a file with a wrong digest before an error. A second mismatch is unlikely to be transient.
MAX_MISMATCHES = 2

# Maximum wait that a server can request with Retry-After, in seconds.
MAX_RETRY_AFTER = 120.0

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Value = TypeVar("Value")


@dataclass(frozen=True)
class RetryPolicy:
    """Settings for retries after transient errors.

    Attributes:
        attempts: Maximum number of consecutive attempts that receive no data.
        wait: Seconds to wait before the second attempt; each further wait is twice as long.
        max_wait: Maximum wait in seconds.
    """

    attempts: int = 6
    wait: float = 0.5
    max_wait: float = 30.0


@dataclass(frozen=True)
class Repository:
    """A Hub repository at a revision.

    Attributes:
        kind: ``model`` or ``dataset``.
        hub: ``owner/name``, or a name without an owner.
        revision: A branch, a tag, or a commit.
    """

    kind: Literal["model", "dataset"]
    hub: str
    revision: str

    @property
    def title(self) -> str:
        """Name of the repository for messages."""
        return f"{'data set' if self.kind == 'dataset' else self.kind} {self.hub}"


@dataclass(frozen=True)
class RemoteFile:
    """A file as listed by the Hub.

    Attributes:
        size: Size in bytes.
        digest: SHA-256 of the content (64 hexadecimal digits), or git blob id (40 hexadecimal digits).
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """The commit of a repository, and its files by name."""

    commit: str
    files: dict[str, RemoteFile]


class _TransientError(Exception):
    """A transient error; its text describes what happened.

    Attributes:
        received: Whether data arrived before the error.
        retry_after: Seconds that the server asks the client to wait.
        advice: What the user can do if the error persists.
    """

    def __init__(
        self,
        message: str,
        received: bool = False,
        retry_after: float = 0.0,
        advice: str = "rerun the command to resume the download",
    ) -> None:
        super().__init__(message)
        self.received = received
        self.retry_after = retry_after
        self.advice = advice


def listing(repository: Repository, retries: RetryPolicy) -> Listing:
    """Return the commit that a revision resolves to, and the files of that commit.

    Args:
        repository: The repository and revision.
        retries: Settings for retries.

    Raises:
        InputError: The Hub cannot be reached, denies access, or has no such repository or revision.
    """
    api = HfApi(library_name="icl-lens")
    info = api.model_info if repository.kind == "model" else api.dataset_info

    def attempt() -> Any:
        with _translate_errors(repository, "the list of files"):
            return info(
                repository.hub, revision=repository.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )

    try:
        found = _retry(attempt, retries, repository)
        commit = str(found.sha)
        files = {
            file.rfilename: RemoteFile(file.lfs.size, file.lfs.sha256) if file.lfs else RemoteFile(int(file.size), file.blob_id)
            for file in found.siblings or []
        }
        if not re.fullmatch("[0-9a-f]{40}", commit) or not all(_DIGEST.fullmatch(file.digest) for file in files.values()):
            raise ValueError("the commit or a digest is missing or invalid")
    except HFValidationError as error:
        raise InputError(f"{repository.hub!r} is not a valid repository name; use owner/name") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{constants.ENDPOINT} returns an invalid response for {repository.title}; check HF_ENDPOINT, and whether a proxy "
            "changes the response"
        ) from error
    return Listing(commit, files)


class Folder:
    """The folder for the files of a repository, locked by one process at a time (see :func:`locked`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            index = json_text.loads((path / VERIFIED).read_text(encoding="utf-8"))
            self._verified: dict[str, list] = {k: list(v) for k, v in index["verified"].items() if len(v) == 4}
            self._finished: dict[str, str] = dict(index["finished"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # The index is missing or corrupted, so existing files are read and verified again.
            self._verified, self._finished = {}, {}

    def record(self, request: str) -> str | None:
        """Return the record that :meth:`finish` stored for a request if all its files are unchanged, else None."""
        text = self._finished.get(request)
        if text is None:
            return None
        names = json.loads(text)["files"]
        return text if all(self._verified_entry(name) for name in names) else None

    def finish(self, request: str, record: str) -> None:
        """Store the record of a request, and delete the files of interrupted downloads."""
        self._finished = {request: record}
        self._save()
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)

    def facts(self, name: str, remote: RemoteFile) -> dict[str, Any] | None:
        """Return the size and SHA-256 of a file that is complete and verified, or None if it must be downloaded."""
        known = self._verified_entry(name)
        if known is None:
            path = self.path / name
            if not path.is_file() or path.stat().st_size != remote.size:
                return None
            # The file has the right size but is not indexed: the process was killed before indexing, or the folder was copied.
            content = _Content(remote)
            with path.open("rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    content.update(chunk)
            if content.digest != remote.digest:
                return None
            known = self._add_verified(name, content)
        digest, size, _, sha256 = known
        return {"size": size, "sha256": sha256} if digest == remote.digest else None

    def store(self, name: str, content: _Content, source: Path) -> None:
        """Move a complete and verified file to the folder."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        self._add_verified(name, content)

    def delete_others(self, names: set[str]) -> None:
        """Delete previously downloaded files that are not among the given names."""
        for name in sorted(self._verified.keys() - names):
            if self._verified_entry(name):
                (self.path / name).unlink()
            del self._verified[name]
        self._save()

    def _verified_entry(self, name: str) -> list | None:
        entry = self._verified.get(name)
        path = self.path / name
        if entry is None or not path.is_file():
            return None
        found = path.stat()
        return entry if entry[1:3] == [found.st_size, found.st_mtime_ns] else None

    def _add_verified(self, name: str, content: _Content) -> list:
        found = (self.path / name).stat()
        self._verified[name] = [content.digest, found.st_size, found.st_mtime_ns, content.sha256]
        self._save()
        return self._verified[name]

    def _save(self) -> None:
        with whole_file(self.path / VERIFIED) as temporary:
            temporary.write_text(json.dumps({"verified": self._verified, "finished": self._finished}), encoding="utf-8")


@contextmanager
def locked(folder: Path, repository: Repository) -> Iterator[Folder]:
    """Lock the folder so that no other process downloads into it, and turn disk errors into one-line errors.

    Yields:
        The locked folder.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / LOCK):
            yield Folder(folder)
    except OSError as error:
        problem = refusal(error, folder) or f"{folder} cannot be written ({error.strerror or error}); use another folder"
        raise InputError(f"fetching {repository.title}: {problem}, and rerun the command to resume") from error


def fetch(
    repository: Repository, found: Listing, names: list[str], folder: Folder, retries: RetryPolicy
) -> dict[str, dict[str, Any]]:
    """Download files of a repository into a folder and verify them; files that are already verified are not downloaded.

    Args:
        repository: Repository to download from.
        found: Commit and files that the Hub lists for it.
        names: Names of the files to download.
        folder: Folder to download to.
        retries: Settings for retries.

    Returns:
        File name -> size and SHA-256.

    Raises:
        InputError: A name points outside the folder, the disk has too little space, the Hub denies access, or an error
            persists.
    """
    for name in names:
        _require_inside(repository, name)
    facts = {name: folder.facts(name, found.files[name]) for name in names}
    missing = [name for name in names if facts[name] is None]
    _require_space(repository, folder.path, [found.files[name] for name in missing])
    for number, name in enumerate(missing, 1):
        label = f"{repository.hub}: {name}" + (f" ({number} of {len(missing)} files)" if len(missing) > 1 else "")
        _fetch_file(repository, found.commit, name, found.files[name], folder, retries, label)
        facts[name] = folder.facts(name, found.files[name])
    return {name: fact for name, fact in facts.items() if fact is not None}


def require_online(repository: Repository) -> None:
    """Require that the user has not disabled network access.

    Raises:
        InputError: HF_HUB_OFFLINE is set.
    """
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{repository.title} cannot be fetched because HF_HUB_OFFLINE is set; unset it, or fetch on a machine with network "
            "access and copy the downloads folder to this one"
        )


class _Content:
    """Incremental hashes of a file: SHA-256, and the git blob id if the Hub lists that."""

    def __init__(self, remote: RemoteFile) -> None:
        self._sha256 = hashlib.sha256()
        self._blob = None
        if len(remote.digest) == 40:
            self._blob = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Add bytes to the hashes."""
        self._sha256.update(chunk)
        if self._blob:
            self._blob.update(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def digest(self) -> str:
        """The digest in the form that the Hub lists for this file."""
        return (self._blob or self._sha256).hexdigest()


class _Partial:
    """A partially downloaded file on disk, with the hashes of its bytes so far."""

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
        """Write bytes to the end of the file and add them to the hashes."""
        self._stream.write(chunk)
        self.content.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Discard all bytes."""
        self._stream.truncate(0)
        self.content = _Content(self._remote)
        self.size = 0

    def flush(self) -> None:
        """Flush buffered bytes to the file, so that they survive if this process is killed."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _fetch_file(
    repository: Repository, commit: str, name: str, remote: RemoteFile, folder: Folder, retries: RetryPolicy, label: str
) -> None:
    """Download one file, resuming from the bytes on disk, until it is complete and verified."""
    partial = _Partial(folder.path / PARTIAL / remote.digest, remote)
    mismatches = 0
    try:
        with progress(remote.size, label, unit="byte", done=partial.size) as advance:
            while True:
                while partial.size < remote.size:
                    _retry(lambda: _receive(repository, commit, name, remote, partial, advance), retries, repository)
                if partial.content.digest == remote.digest:
                    break
                mismatches += 1
                if mismatches == MAX_MISMATCHES:
                    partial.restart()
                    raise InputError(
                        f"fetching {repository.title}: {name} was downloaded {mismatches} times, and its content never matched "
                        f"the digest on the Hub ({remote.digest}); check whether a proxy changes it and whether the disk works"
                    )
                logger.warning("%s does not match the digest on the Hub; downloading it again", label)
                advance(-partial.size)
                partial.restart()
        partial.close()
        folder.store(name, partial.content, partial.path)
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
    """Request the missing bytes of a file once, up to :data:`MAX_REQUEST` bytes."""
    start = partial.size
    stop = min(remote.size, start + MAX_REQUEST)
    # Compression is disabled because ranges and byte counts refer to the uncompressed content.
    headers = build_hf_headers(library_name="icl-lens") | {"Accept-Encoding": "identity"}
    if (start, stop) != (0, remote.size):
        headers["Range"] = f"bytes={start}-{stop - 1}"
    kind = None if repository.kind == "model" else repository.kind
    url = hf_hub_url(repository.hub, name, repo_type=kind, revision=commit)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with (
            _translate_errors(repository, name, lambda: partial.size > start),
            # Large files are on another host; the client follows that redirect without sending the token.
            get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # the server ignored the range and sends the whole file
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
            raise _TransientError(f"the Hub sends no data for {name}")
    finally:
        partial.flush()


def _retry(action: Callable[[], Value], retries: RetryPolicy, repository: Repository) -> Value:
    """Return the result of an action, retrying after transient errors.

    Raises:
        InputError: The error persists.
    """
    failures = 0
    while True:
        try:
            return action()
        except _TransientError as error:
            failures = 1 if error.received else failures + 1
            if failures >= retries.attempts:
                times = "once" if failures == 1 else f"{failures} times in a row"
                raise InputError(f"fetching {repository.title}: {error} ({times}); {error.advice}") from error
            wait = max(min(retries.wait * 2 ** (failures - 1), retries.max_wait), min(error.retry_after, MAX_RETRY_AFTER))
            logger.info("%s: %s; retrying in %.1f s", repository.hub, error, wait)
            time.sleep(wait)


@contextmanager
def _translate_errors(repository: Repository, name: str, received: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Translate exceptions of the Hub's library.

    Args:
        repository: Repository of the request.
        name: Name of the requested file, for messages.
        received: Returns whether data has arrived.

    Raises:
        InputError: The error is permanent.
        _TransientError: The error may be transient.
    """
    title, page = repository.title, f"{constants.ENDPOINT}/{'datasets/' * (repository.kind == 'dataset')}{repository.hub}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        require_online(repository)
        raise InputError(f"{title} cannot be fetched offline") from error
    except GatedRepoError as error:
        raise InputError(f"{title} is gated; accept its terms at {page} and set HF_TOKEN to a token of that account") from error
    except RepositoryNotFoundError as error:
        raise InputError(_not_found(title)) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{title} has no revision {repository.revision!r}; use a branch, a tag or a full commit hash from {page}"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise InputError(f"{title} lists {name}, but the file does not exist; use another revision") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 416, 429) or status >= 500:
            retry_after = error.response.headers.get("Retry-After", "")
            message = f"the Hub answers with status {status} for {name}"
            raise _TransientError(message, received(), float(retry_after) if retry_after.isdigit() else 0.0) from error
        if status == 401 and get_token() is None:
            raise InputError(_not_found(title)) from error
        if status == 401:
            raise InputError(
                f"the Hub rejects the token for {title}; renew HF_TOKEN, or unset it for a public repository"
            ) from error
        if status == 403:
            raise InputError(
                f"the token has no read access to {title}; grant it read access, or set HF_TOKEN to another token"
            ) from error
        raise InputError(f"the Hub answers with status {status} for {name} of {title}") from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise InputError(f"HF_ENDPOINT must be a URL (https://...), got {constants.ENDPOINT!r}") from error
    except httpx2.ConnectError as error:
        close_session()  # otherwise the session would keep a connection with a failed TLS handshake
        raise _TransientError(
            f"{error.request.url.host} cannot be reached ({_first_line(error)})",
            received(),
            advice="check the network connection, and whether it needs a proxy (HTTPS_PROXY)",
        ) from error
    except httpx2.TimeoutException as error:
        raise _TransientError(f"timeout while fetching {name}", received()) from error
    except httpx2.TransportError as error:
        raise _TransientError(f"the connection was lost while fetching {name} ({_first_line(error)})", received()) from error
    except httpx2.HTTPError as error:
        raise InputError(f"{name} of {title} cannot be fetched ({_first_line(error)})") from error


def _not_found(title: str) -> str:
    """Return the message for a missing or private repository; without authentication, the Hub answers 401 to both."""
    return (
        f"{title} does not exist on the Hub, or is private or gated; check the name, or set HF_TOKEN to a token of an account "
        "with access"
    )


def _require_inside(repository: Repository, name: str) -> None:
    """Require that a name stays inside the folder and is not hidden, because the folder's internal files are hidden.

    Raises:
        InputError: The name is unsafe.
    """
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)  # includes ".."
    if (
        not parts
        or hidden
        or PurePosixPath(name).as_posix() != name
        or name.startswith("/")
        or re.search(r"[\\:\0-\x1f]", name)
    ):
        raise InputError(
            f"{repository.title} lists the unsafe file name {name!r}, which could be outside the download folder; nothing was "
            "fetched"
        )


def _require_space(repository: Repository, folder: Path, missing: list[RemoteFile]) -> None:
    """Require enough disk space for the missing files before the download starts.

    Raises:
        InputError: The disk has too little free space.
    """
    partial_files = [folder / PARTIAL / digest for digest in {file.digest for file in missing}]
    needed = sum(file.size for file in missing) - sum(path.stat().st_size for path in partial_files if path.is_file())
    free = shutil.disk_usage(folder).free
    if missing and needed + MARGIN > free:
        raise InputError(
            f"fetching {repository.title} needs {(needed + MARGIN) / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are "
            "free; free some space, or use another folder for downloads"
        )
    if missing:
        logger.info("%s: %d files to fetch, %s", repository.hub, len(missing), amount(needed))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
