"""The test Hub on two loopback ports: the site with its API, and the host that stores LFS bytes."""

import errno
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .api import HUB_ROUTES, STORAGE_ROUTES, Refused, Request, Response, Routes, User, answer, first_commit
from .faults import Fault, Faults
from .repository import BlobStore, Repository

CHUNK = 64 * 1024


class _Cut(Exception):
    """The connection is to be closed here and now."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    authorization: str | None
    range: str | None


class Hub:
    """A small Hugging Face Hub on 127.0.0.1, for the real client to talk to.

    Repositories, users and faults can be set up from the test's side; `requests` is what clients asked for.
    LFS bytes go through a second port, as the real Hub keeps them on another host.
    """

    def __init__(self, folder: Path):
        self.blobs = BlobStore(folder / "blobs")
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, User] = {}  # by token
        self.faults = Faults()
        self.requests: list[Seen] = []
        self._servers = [self._server(HUB_ROUTES), self._server(STORAGE_ROUTES)]
        ports = [server.server_address[1] for server in self._servers]
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{port}" for port in ports)

    def _server(self, routes: Routes) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "routes": routes})
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> "Hub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add_user(self, name: str, *, orgs: tuple[str, ...] = (), can_write: bool = True) -> str:
        """Makes a user and returns the token."""
        token = f"token-{len(self.users)}-of-{name}"
        self.users[token] = User(name, orgs, can_write)
        return token

    def create(self, id: str, *, private: bool = False) -> Repository:
        """Makes a repository as a user of the site would, with its first commit."""
        self.repositories[id] = repository = Repository(id, self.blobs, private)
        first_commit(repository)
        return repository

    def fault(self, method: str, path: str, **how: Any) -> None:
        """Lets requests of that method whose path contains `path` go wrong; see `Fault`."""
        self.faults.add(Fault(method, path, **how))

    def count(self, method: str, path: str = "") -> int:
        """How many requests of that method whose path contains `path` have arrived."""
        return sum(seen.method == method and path in seen.path for seen in self.requests)

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The variables that send a fresh process's client here, with a cache of its own under `home`."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True  # else every answer waits for an acknowledgement of its headers
    hub: Hub
    routes: Routes

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `Hub.requests` is the log."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        self.hub.requests.append(Seen(self.command, url.path, authorization, self.headers.get("Range")))
        self._unread = int(self.headers.get("Content-Length", 0))
        fault = self.hub.faults.take(self.command, url.path) or Fault("", "")
        try:
            response = self._answer(url.path, dict(parse_qsl(url.query)), authorization, fault)
            self._send(response, fault.cut_after)
        except (_Cut, ConnectionError):
            self.close_connection = True
            with suppress(OSError):  # the client may have been quicker
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _answer(self, path: str, query: dict[str, str], authorization: str | None, fault: Fault) -> Response:
        try:
            if fault.status:
                raise Refused(fault.status, fault.message)
            user = self.hub.users.get((authorization or "").removeprefix("Bearer "))
            if authorization and user is None:
                raise Refused(401, "Invalid credentials in Authorization header")
            request = Request(self.command, path, query, user, lambda: self._chunks(fault.cut_after))
            response = answer(self.hub, request, self.routes)
        except Refused as error:
            response = error.response
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            response = Refused(507, f"ENOSPC: {os.strerror(errno.ENOSPC)}").response
        for _ in self._chunks():  # what is left of the body, or the connection could not be used again
            pass
        return response

    def _chunks(self, cut_after: int | None = None) -> Iterator[bytes]:
        """The request's body as it arrives; cut off after that many bytes."""
        taken = 0
        while self._unread:
            if cut_after is not None and taken >= cut_after:
                raise _Cut
            wanted = min(CHUNK, self._unread, CHUNK if cut_after is None else cut_after - taken)
            chunk = self.rfile.read(wanted)
            if len(chunk) < wanted:
                raise _Cut
            self._unread -= len(chunk)
            taken += len(chunk)
            yield chunk

    def _send(self, response: Response, cut_after: int | None) -> None:
        size = len(response.body) if isinstance(response.body, bytes) else response.body.stat().st_size
        start, stop = 0, size
        if isinstance(response.body, Path):
            response.headers["Accept-Ranges"] = "bytes"
            if wanted := self.headers.get("Range"):
                start, stop = _range(wanted, size)
                response.status = 206 if start < stop else 416
                span = f"{start}-{stop - 1}" if start < stop else "*"
                response.headers["Content-Range"] = f"bytes {span}/{size}"
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = stop if cut_after is None or self.command != "GET" else min(stop, start + cut_after)
        if isinstance(response.body, bytes):
            self.wfile.write(response.body[start:end])
        else:
            with response.body.open("rb") as file:
                file.seek(start)
                while chunk := file.read(min(CHUNK, end - file.tell())):
                    self.wfile.write(chunk)
        if end < stop:
            raise _Cut


def _range(text: str, size: int) -> tuple[int, int]:
    """`bytes=a-b`, `bytes=a-` or `bytes=-n` as a half-open range of such a file; empty beyond its end."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None:
        return 0, size
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    start = min(int(first), size)
    return start, max(start, min(int(last) + 1 if last else size, size))
