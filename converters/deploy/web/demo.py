"""Showing a page on this machine: a given one, or that of the model in this package."""

import threading
import webbrowser
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ....keras_models.store.writing.output_errors import os_reason
from ....keras_models.store.writing.own_files import sha256
from ....verify.shapes.checkpoint import PACKED
from ...conversion.cache import cache_folder
from ...conversion.progress import Progress
from ..contents.bundle import FORMAT, read_bundle
from ..request import DeployError
from .runtime_files import VERSION
from .serving import address_of, make_server

OWN_MODEL = "shapes"


def check_page(folder: Path) -> None:
    """Raises DeployError where a folder is no page that `export` wrote."""
    if "web" not in read_bundle(folder) or not (folder / "index.html").is_file():
        raise DeployError(f"{folder} holds no page: make one with mobileclip-keras export MODEL --to web.")


def own_page(progress: Progress) -> Path:
    """The page of the model in this package. The first call exports it into the cache; another may take its time.

    Args:
        progress: shows the steps of the export.

    Raises:
        MobileClipError: where it cannot be exported.
    """
    from ..export import export

    page = cache_folder() / (name := page_name())
    page.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(page.with_name(f".{name}.lock")):
        if not page.exists():
            export(OWN_MODEL, "web", out=page, progress=progress)
    check_page(page)
    return page


def page_name() -> str:
    """Of the folder of this program's own page. Another version of the program, of bundles or of the page's runtime, or
    other weights, make another page."""
    return f"{OWN_MODEL}-page-{version('mobileclip-keras')}-{FORMAT}-{VERSION}-{sha256(PACKED)[:8]}"


def show(folder: Path, port: int, browser: bool, tell: Callable[[str], None]) -> None:
    """Serves a page until it is interrupted.

    Args:
        folder: of the page.
        port: to listen at; 0 for any that is free.
        browser: whether to open it.
        tell: gets the address.

    Raises:
        DeployError: where the port cannot be had.
    """
    try:
        server = make_server(folder, port)
    except OSError as error:
        raise DeployError(f"Port {port} cannot be used: {os_reason(error) or error}. Give another --port.") from error
    with server:
        address = address_of(server)
        tell(address)
        if browser:  # it asks only once somebody listens, and some systems wait for it to end
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
