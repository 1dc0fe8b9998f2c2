"""Showing a page on this machine."""

import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ....keras_models.store.writing.output_errors import os_reason
from ..contents.bundle import read_bundle
from ..request import DeployError
from .serving import address_of, make_server


def check_page(folder: Path) -> None:
    """Raises DeployError where a folder is no page that `export` wrote."""
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
