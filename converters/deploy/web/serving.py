"""A web server for one folder, for this machine alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

HOST = "127.0.0.1"
Extra = dict[str, bytes]
"""Contents that are served beside the folder's files, by their paths."""


class _Handler(SimpleHTTPRequestHandler):
    """Files with the types that browsers insist on, and the headers under which they allow threads."""

    extensions_map = {  # noqa: RUF012 - that of the base class is a plain dict too
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".tflite": "application/octet-stream",
        ".svg": "image/svg+xml",
    }

    def __init__(self, *args: Any, extra: Extra, **options: Any) -> None:
        self.extra = extra
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        content = self.extra.get(self.path.partition("?")[0])
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path.endswith(".html") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def make_server(folder: Path, port: int = 0, extra: Extra | None = None) -> ThreadingHTTPServer:
    """A server that is bound and not yet running.

    Args:
        folder: whose files are served.
        port: 0 for any that is free.
        extra: what is served beside them. It may change while the server runs.

    Raises:
        OSError: where the port is taken.
    """
    return ThreadingHTTPServer(
        (HOST, port), partial(_Handler, directory=str(folder), extra={} if extra is None else extra)
    )


def address_of(server: ThreadingHTTPServer) -> str:
    """What a browser opens."""
    return f"http://{HOST}:{server.server_port}/"


@contextmanager
def served(folder: Path, extra: Extra | None = None) -> Iterator[str]:
    """Serves a folder meanwhile; gives the address."""
    with make_server(folder, extra=extra) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield address_of(server)
        finally:
            server.shutdown()
            thread.join()
