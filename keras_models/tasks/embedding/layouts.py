"""The ways in which the parts of a store can lie on the disk."""

from collections.abc import Callable
from pathlib import Path

from ..embedding_readers import pyarrow
from . import lance_layout
from .lance_layout import LanceLayout
from .parquet_layout import ParquetLayout
from .parts import Layout

DEFAULT, LANCE = "parquet", "lance"
LAYOUTS: dict[str, Callable[[Path, int, str], Layout]] = {DEFAULT: ParquetLayout, LANCE: LanceLayout}


def new_layout(folder: Path) -> str:
    """The layout of a new store, by its name."""
    return LANCE if folder.suffix == ".lance" else DEFAULT


def check_installed(layout: str) -> None:
    """Refuses, before any work, a layout whose packages are missing.

    Raises:
        MissingPackageError: saying what to install.
    """
    pyarrow()
    if layout == LANCE:
        lance_layout.package()
