"""Showing a page on this machine. Without a folder, it is that of the tiny model, made the first time."""

import threading
import webbrowser
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ....keras_models.store.writing.output_errors import os_reason
from ...conversion.cache import cache_folder
from ...conversion.progress import Progress
from ..contents.bundle import read_bundle
from ..export import export
from ..request import DeployError
from .page_files import SHAPES
from .serving import address_of, make_server


def page_to_show(folder: Path | None, runtime: Path | None, progress: Progress) -> Path:
    """The folder of a page.

    Args:
        folder: one that `export` wrote; None for the tiny model's, in the cache.
        runtime: as for `export`.
        progress: shows steps.

    Raises:
        MobileClipError: where it is no page, or cannot be made.
    """
    if folder is not None:
        _check_page(folder)
        return folder
    kept = cache_folder() / "web" / f"{SHAPES}-{version('mobileclip-keras')}"
    try:
        _check_page(kept)
    except DeployError:
        kept.parent.mkdir(parents=True, exist_ok=True)
        export(SHAPES, "web", out=kept, force=kept.exists(), runtime=runtime, progress=progress)
    return kept


def _check_page(folder: Path) -> None:
    if "web" not in read_bundle(folder) or not (folder / "index.html").is_file():
        raise DeployError(f"{folder} holds no page: make one with mobileclip-keras export MODEL --to web.")


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
