"""Files with smaller weights in the place of float32's.

Float16 is safe: layers whose numbers leave its range are found by running, and stay float32. So do weights that are
beyond its range, or so small that it has few digits for them.
"""

import math
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .runtimes.lint import layer_of
from .runtimes.registry import Arrays, Runtime

LARGEST = 65_504.0
"""The largest number of float16."""


def round_to_half(runtime: Runtime, path: Path, batches: list[Arrays]) -> dict[str, Any]:
    """Rounds a file to float16, in its place.

    Args:
        runtime: that the file is for.
        path: the file, in float32.
        batches: inputs to run it on.

    Returns:
        For bundle.json: the largest activation (None where it is not finite) and the layers that stay float32.
    """
    found = runtime.code.largest_activations(path, batches)
    kept = [name for name, largest in found.items() if not largest <= LARGEST] + runtime.code.unfit(path)
    with set_aside(path) as float32:
        kept = runtime.code.write_fp16(float32, path, list(dict.fromkeys(kept)))
    largest = max(found.values(), key=lambda value: math.inf if math.isnan(value) else value, default=0.0)
    layers = list(dict.fromkeys(map(layer_of, kept)))
    return {"largest_activation": largest if math.isfinite(largest) else None, "kept_in_float32": layers}


def store_rounded(runtime: Runtime, path: Path, floats: Collection[str] | None) -> None:
    """Stores rounded weights as what they are, in a file's place.

    Args:
        runtime: that the file is for.
        path: the file, in float32.
        floats: the layers that compute with floats, though their weights are integers and the runtime could compute
            in integers, too; None for all.
    """
    with set_aside(path) as float32:
        runtime.code.write_rounded(float32, path, floats)


@contextmanager
def set_aside(path: Path) -> Iterator[Path]:
    """Within this context, a file and what belongs to it lie in a folder beside their place; then they are gone."""
    aside = path.parent / "float32"
    aside.mkdir()
    try:
        for each in path.parent.glob(f"{path.stem}.*"):
            each.rename(aside / each.name)
        yield aside / path.name
    finally:
        shutil.rmtree(aside)


def split(given: dict[str, Any], batch: int) -> list[Arrays]:
    """Rows as batches of one size, the last filled up with rows that are there."""
    count = len(next(iter(given.values())))
    rows = [np.arange(start, start + batch) % count for start in range(0, count, batch)]
    return [{name: np.stack([array[i] for i in each]) for name, array in given.items()} for each in rows]
