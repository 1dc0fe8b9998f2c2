"""Arguments that the programs share, checked before anything that takes minutes begins."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Backend = StrEnum("Backend", ["tensorflow", "jax", "torch"])
Repeats = Annotated[int, typer.Option(min=1, help="Samples of each.")]


def _names(variants: list[str] | None) -> list[str] | None:
    """The variants' own names."""
    if not variants:  # what is timed in a process of its own has none, and times the imports, too
        return variants
    from mobileclip_keras.keras_models.registry import VARIANTS, UnknownVariantError, get_variant

    try:
        return list(VARIANTS) if variants == ["all"] else [get_variant(variant).name for variant in variants]
    except UnknownVariantError as error:
        raise typer.BadParameter(str(error)) from None


def _checkout(path: Path | None) -> Path | None:
    if path is not None and not (path / "benchmarks" / "samples.py").is_file():
        raise typer.BadParameter(f"{str(path)!r} is no checkout of this project.")
    return path and path.resolve()


def _writable(path: Path | None) -> Path | None:
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise typer.BadParameter(f"Nothing can be written into a folder {str(path.parent)!r}.")
    return path


NAMES = typer.Argument(help='Variants by any of their names, or "all".', callback=_names)
JSON = typer.Option("--json", dir_okay=False, callback=_writable, help="The file that results are added to.")
Against = Annotated[
    Path | None,
    typer.Option(help="Another checkout of this project, measured in turns with this one.", callback=_checkout),
]
