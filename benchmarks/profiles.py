"""Where the time of a tower goes: its operations by kind, ours beside PyTorch's.

    python benchmarks/profiles.py s0 s2

Each way runs under its library's own profiler, on 2 threads, in a process of its own. A tower cannot be faster than
the matrix products in it: their share of the time says how far it still could be.
"""

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import NAMES
from engines import BASELINE, LIBRARIES, in_keras
from inference import BATCHES, prepare
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samples import in_process, keep

RESULTS = Path(__file__).parent / "results" / "profiles.json"
WAYS = {
    "torch": (BASELINE, "PyTorch, as loaded"),
    "keras-tensorflow": tuple(f"Keras on TensorFlow, {form} form, tf.function" for form in ("inference", "train")),
    "keras-jax": tuple(f"Keras on JAX, {form} form, jit" for form in ("inference", "train")),
    "keras-torch": tuple(f"Keras on PyTorch, {form} form, eager, channels last" for form in ("inference", "train")),
}
KINDS = {
    # With what a library computes in the same go: bias and GELU on TensorFlow, nearly all of XLA's.
    "products": r"MatMul|^aten::(addmm|mm|bmm|baddbmm)$|^dot|^ynn_fusion",
    "convolutions": r"conv",
    "attention": r"attention|softmax",
}
REST = "the rest"
NO_OPERATION = r"^(ExecutorState|ExecutorDone|ThunkExecutor|SlinkyThreadPool|ThreadpoolListener|end: )"

Times = Counter[str]
"""Milliseconds by kind of operation."""


def kind_of(name: str, shapes: Any = ()) -> str:
    """The kind of an operation by its name in a profile; PyTorch's dense convolutions by one pixel are products."""
    kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST)
    kernel = shapes[1] if kind == "convolutions" and len(shapes) > 1 else []
    return "products" if len(kernel) == 4 and kernel[1] > 1 and kernel[2:] == [1, 1] else kind


def by_torch(run: Callable[[], Any]) -> Times:
    """A run under PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        run()
    times: Times = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        times[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e3
    return times


def by_xla(run: Callable[[], Any], backend: str) -> Times:
    """A run under the profiler that TensorFlow and JAX share."""
    with tempfile.TemporaryDirectory() as folder:
        if backend == "jax":
            import jax

            with jax.profiler.trace(folder):
                run()
        else:
            import tensorflow as tf

            with tf.profiler.experimental.Profile(folder):
                run()
        return _read(next(Path(folder).rglob("*.xplane.pb")))


def _read(path: Path) -> Times:
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    space, times = XSpace(), Counter[str]()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events if line.name.startswith("tf_") else ():  # the pools' threads, also JAX's
                name = plane.event_metadata[event.metadata_id].name
                if not re.search(NO_OPERATION, name):
                    times[kind_of(name)] += event.duration_ps / 1e9
    return times


def sample(library: str, folder: Path, tower: str, batch: int) -> dict[str, dict[str, float]]:
    """The wall-clock time of one run, and the shares of the kinds of operations in it, for each way of a library."""
    inputs = np.load(folder / f"{tower}.npy")[:batch]
    found = {}
    for name, make in LIBRARIES.get(library, in_keras)(folder, tower, inputs):
        if name in WAYS[library]:
            run, seconds = make(), []
            for _ in range(7):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            times = by_torch(run) if library.endswith("torch") else by_xla(run, library.removeprefix("keras-"))
            shares = {kind: times[kind] / times.total() for kind in (*KINDS, REST)}
            found[name] = {"ms": 1e3 * float(np.median(seconds[2:])), **shares}
    return found


def main(
    variants: Annotated[list[str] | None, NAMES] = None,
    one: Annotated[str, typer.Option("--sample", hidden=True)] = "",
) -> None:
    """Prints and keeps where the time goes."""
    if one:
        library, where, tower, batch = json.loads(one)
        print(json.dumps(sample(library, Path(where), tower, batch)))
        return
    console = Console(width=140)
    table = Table("case", "way", "ms", *KINDS, REST, title="Share of the time")
    for name in variants or ["mobileclip_s0", "mobileclip_s2"]:
        cases: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            prepare(name, Path(folder))
            todo = [(tower, batch, library) for tower in BATCHES for batch in BATCHES[tower] for library in WAYS]
            for tower, batch, library in track(todo, name, console=console):
                arguments = json.dumps([library, folder, tower, batch])
                made = in_process(__file__, "--sample", arguments, backend=library.removeprefix("keras-"))
                cases.setdefault(f"{tower} x{batch}", {}).update(made)
        keep(RESULTS, {name: {"cases": cases}})
        for case, ways in cases.items():
            for way, taken in ways.items():
                shares = (f"{taken[kind]:.0%}" for kind in (*KINDS, REST))
                table.add_row(f"{name} {case}", way, f"{taken['ms']:.1f}", *shares)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
