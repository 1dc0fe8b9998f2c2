"""A browser without a window, driven by Playwright: the one that is installed, none is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..request import DeployError

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "MOBILECLIP_KERAS_BROWSER"
"""Names the program where it is not on the path."""
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LONGEST_WAIT = 300_000
"""Milliseconds for one step."""


def why_no_browser() -> str | None:
    """Why nothing can be proven in a browser here, in words; None where it can."""
    if _program() is None:
        return "no Chromium or Chrome is on the path"
    if find_spec("playwright") is None:
        return 'Playwright is not installed (pip install "mobileclip-keras[web]")'
    return None


def _program() -> str | None:
    names = (os.environ.get(VARIABLE, ""), *NAMES)
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def opened_page(flags: tuple[str, ...] = FLAGS, **context: object) -> "Iterator[Page]":
    """An empty page in a browser with nothing remembered.

    Args:
        flags: of the program.
        context: what Playwright's `new_context` takes: the size of the window, the colours.

    Raises:
        DeployError: where the browser does not start, or breaks.
    """
    from playwright.sync_api import Error, sync_playwright

    # The kernel's sandbox needs rights that root in a container lacks.
    flags = (*flags, *(("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()))
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=_program(), args=list(flags))
            page = browser.new_context(**context).new_page()  # type: ignore[arg-type]
            page.set_default_timeout(LONGEST_WAIT)
            yield page
            browser.close()
        except Error as error:
            raise DeployError(f"The browser failed: {error.message.splitlines()[0][:500]}") from error
