"""Memory of a training step over a large batch: all at once, and a chunk at a time.

    python benchmarks/large_batches.py --json benchmarks/results/large_batches.json

Each number comes from a process of its own: by how much one step raises the peak of its memory, the batch itself left
out, which lies in memory before. The towers are the small ones of the tests, so that a laptop has room for the whole
batch, too. JAX compiles each step in the memory that is measured, so it is left out: what XLA says of its programs is
tested in tests/test_training_memory.py.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from arguments import JSON, Backend
from rich.console import Console
from rich.table import Table
from samples import MIB, forget_peak, memory

BACKENDS = [backend for backend in Backend if backend != "jax"]
BATCHES = (64, 256, 1024)
CHUNK = 16
ROOT = Path(__file__).resolve().parents[1]


def grown(batch: int, chunk_size: int | None) -> int:
    """By how many bytes one step raises the peak, after steps over a few pairs that load and compile what is needed."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    from mobileclip_keras.keras_models import architectures
    from tests import small

    architectures.IMAGE_TOWERS |= small.KNOWN_IMAGE_TOWERS
    architectures.TEXT_TOWERS |= small.KNOWN_TEXT_TOWERS
    random = np.random.default_rng(0)
    model = small.small_model("small_vit", "small_mct_of_64_words")
    pairs = {
        "image": keras.ops.convert_to_tensor(random.random((batch, 64, 64, 3), np.float32)),
        "text": keras.ops.convert_to_tensor(random.integers(1, 64, (batch, 77), np.int32)),
    }
    model.compile(keras.optimizers.SGD(1e-3), chunk_size=chunk_size)
    for few in (2 * CHUNK, 3 * CHUNK):  # after two sizes TensorFlow compiles for any
        model.train_on_batch({key: value[:few] for key, value in pairs.items()})
    gc.collect()
    before = memory("VmRSS")
    forget_peak()
    model.train_on_batch(pairs)
    return memory("VmHWM") - before


def measured(backend: str, batch: int, chunk_size: int | None) -> float:
    """MiB of `grown` in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--one", str(batch), *(["--chunk", str(chunk_size)] if chunk_size else [])]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[-1]) / MIB


def main(
    backend: Annotated[list[Backend] | None, typer.Option(help="Of these; both without.")] = None,
    one: Annotated[int | None, typer.Option(help="Measures one batch in this process.", hidden=True)] = None,
    chunk: Annotated[int | None, typer.Option(hidden=True)] = None,
    path: Annotated[Path | None, JSON] = None,
) -> None:
    """Measures and prints a table."""
    if one is not None:
        print(grown(one, chunk))
        return
    table = Table("backend", "chunk", *(f"batch {batch}" for batch in BATCHES), title="MiB")
    results: list[dict[str, Any]] = []
    for name in backend or BACKENDS:
        for chunk_size in (None, CHUNK):
            row = [measured(name, batch, chunk_size) for batch in BATCHES]
            results += [
                {"backend": str(name), "batch": batch, "chunk": chunk_size, "MiB": round(value, 1)}
                for batch, value in zip(BATCHES, row, strict=True)
            ]
            table.add_row(name, str(chunk_size or "-"), *(f"{value:.0f}" for value in row))
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
