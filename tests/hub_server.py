"""Server on loopback that imitates the Hugging Face Hub: it serves folders as repositories, with configurable faults.

It imitates requests and headers of the real Hub: ``/api/{models,datasets}/{id}/revision/{revision}?blobs=true`` with sizes, git
blob ids and LFS digests; ``/{id}/resolve/{revision}/{file}``, which returns small files directly and redirects large (LFS)
files to another host that needs no token; ranges; ``X-Error-Code``; 401 for missing repositories without a login; and a renamed
repository.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".bin", ".parquet", ".gguf")


@dataclass
class Fault:
    """Fault in the requests with ``part`` in their path, for a limited number of times.

    ``what`` is an HTTP status or one of: "truncate" (half of the body, then the connection is closed), "stall" (half of the
    body, then nothing), "corrupt" (one byte is changed), "no range" (the full body is sent when a range is requested), "no hub"
    (the response is a web page).
    """

    part: str
    what: int | str
    times: int = 1_000_000


@dataclass
class Repository:
    """Commits (folders), and the branches that point to them."""

    folders: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class Hub:
    """Server that can be used as a context manager.

    Attributes:
        endpoint: Value for HF_ENDPOINT.
        faults: Faults to apply.
        sent: Path of a file -> number of bytes of its content that were sent.
        requests: "METHOD path" of each request.
        tokens: Host -> tokens that it received.
        halfway: Event that is set when half of a stalled body has been sent.
        names: Old name -> new name of a renamed repository.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.names: dict[str, str] = {}
        self.closing = threading.Event()
        self.forget()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Remove all faults and reset all counters."""
        self.faults: list[Fault] = []
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        self.tokens: dict[str, set[str | None]] = {}
        self.halfway = threading.Event()

    def add(self, kind: str, name: str, folder: Path, branch: str = "main", **options) -> str:
        """Add a folder as a commit of a repository, and point a branch to it.

        Args:
            kind: ``models`` or ``datasets``.
            name: Name of the repository.
            folder: Folder with the files of the commit.
            branch: Name of the branch.
            options: Further fields of :class:`Repository`.

        Returns:
            Hash of the commit.
        """
        content = "".join(f"{p.relative_to(folder)} {_sha256(p)}" for p in sorted(folder.rglob("*")) if p.is_file())
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository(**options))
        repository.folders[commit] = folder
        repository.branches[branch] = commit
        return commit

    def files_asked_for(self) -> list[str]:
        """Return the requests for file content."""
        return [request for request in self.requests if "/resolve/" in request or "/cdn/" in request]

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, path: str) -> int | str | None:
        """Return the fault that applies to this request, if any."""
        for fault in self.faults:
            if fault.part in path and fault.times > 0:
                fault.times -= 1
                return fault.what
        return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _siblings(folder: Path) -> list[dict]:
    siblings = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        sibling = {"rfilename": path.relative_to(folder).as_posix(), "size": len(content), "blobId": _blob(content)}
        if path.name.endswith(LFS):
            # The git blob of a large file is an LFS pointer, so its id cannot verify the content.
            sibling["blobId"] = _blob(b"pointer to " + sibling["rfilename"].encode())
            sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        siblings.append(sibling)
    extra = folder.with_name(f"{folder.name}.extra.json")  # entries that cannot exist in a folder, such as a file named ../x
    return siblings + (json.loads(extra.read_text()) if extra.is_file() else [])


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            hub.tokens.setdefault(self.headers["Host"].split(":")[0], set()).add(self.token)
            self.fault = hub.fault(path)
            if isinstance(self.fault, int):
                return self.refuse(self.fault)
            if self.fault == "no hub":
                return self.answer(b"<html>Sign in to the network</html>", {"Content-Type": "text/html"})
            if found := re.fullmatch(r"/api/(models|datasets)/(.+)/revision/([^/]+)", path):
                return self.info(found[1], found[2], unquote(found[3]))
            if found := re.fullmatch(r"/(datasets/)?(.+)/resolve/([^/]+)/(.+)", path):
                return self.resolve("datasets" if found[1] else "models", found[2], unquote(found[3]), unquote(found[4]))
            if found := re.fullmatch(r"/cdn/([^/]+)/([^/]+)/(.+)", path):
                return self.content(hub.repositories[found[1], unquote(found[2])], unquote(found[3]))
            return self.refuse(404)

        def find(self, kind, name, revision):
            """Return the repository and the commit, or None after an error response."""
            if self.token == "expired":
                return self.refuse(401, message="Invalid credentials in Authorization header")
            repository = hub.repositories.get((kind, name))
            if repository is None:
                if self.token is None:
                    return self.refuse(401, message="Invalid username or password.")
                return self.refuse(404, "RepoNotFound", "Repository not found")
            commit = repository.branches.get(revision, revision)
            if commit not in repository.folders:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return repository, commit

        def info(self, kind, name, revision):
            if name in hub.names:
                place = self.path.replace(f"/{name}/", f"/{hub.names[name]}/")
                return self.answer(b"", {"Location": place}, status=307)
            found = self.find(kind, name, revision)
            if found:
                repository, commit = found
                body = {"id": name, "sha": commit, "private": False, "gated": repository.gated and "auto"}
                body |= {"tags": [], "downloads": 0, "likes": 0, "siblings": _siblings(repository.folders[commit])}
                self.answer(json.dumps(body).encode(), {"Content-Type": "application/json"})
            return None

        def resolve(self, kind, name, revision, file):
            name = hub.names.get(name, name)
            found = self.find(kind, name, revision)
            if not found:
                return None
            repository, commit = found
            if repository.gated and self.token != "admitted":
                return self.refuse(403 if self.token else 401, "GatedRepo", "Access to this repository is restricted.")
            path = repository.folders[commit] / file
            if not path.is_file():
                return self.refuse(404, "EntryNotFound", "Entry not found")
            if file.endswith(LFS):
                headers = {"X-Linked-Size": path.stat().st_size, "X-Linked-ETag": f'"{_sha256(path)}"', "X-Repo-Commit": commit}
                place = f"http://localhost:{hub.port}/cdn/{kind}/{name.replace('/', '%2F')}/{commit}/{file}"
                return self.answer(b"", {**headers, "Location": place}, status=302)
            return self.content(repository, f"{commit}/{file}", {"X-Repo-Commit": commit})

        def content(self, repository, place, headers=None):
            commit, file = place.split("/", 1)
            content = (repository.folders[commit] / file).read_bytes()
            headers = {"ETag": f'"{_blob(content)}"', "Accept-Ranges": "bytes", **(headers or {})}
            status, body = 200, content
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and self.fault != "no range":
                start, stop = int(asked[1]), int(asked[2] or len(content) - 1) + 1
                if start >= len(content):
                    return self.refuse(416)
                status, body = 206, content[start:stop]
                headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
            if self.fault == "corrupt":
                body = body[:-1] + bytes([body[-1] ^ 1])
            return self.answer(body, headers, status, name=file)

        def refuse(self, status, code=None, message=None):
            headers = {"Content-Type": "application/json"}
            headers |= {"X-Error-Code": code} if code else {}
            headers |= {"X-Error-Message": message} if message else {}
            headers |= {"Retry-After": "0"} if status == 429 else {}
            return self.answer(json.dumps({"error": message or "fault"}).encode(), headers, status)

        def answer(self, body, headers, status=200, name=None):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "HEAD":
                return
            short = self.fault in ("truncate", "stall")
            part = body[: len(body) // 2] if short else body
            if name is not None:
                hub.sent[name] += len(part)
            self.wfile.write(part)
            if short:
                self.wfile.flush()
                hub.halfway.set()
                if self.fault == "stall":
                    hub.closing.wait(20)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def handle(self):
            try:
                super().handle()
            except (ConnectionError, OSError):  # the client was killed
                self.close_connection = True

    return Handler
