"""How fast the towers are: this package on each backend beside PyTorch, ONNX Runtime and OpenVINO, in one run.

    python benchmarks/inference.py s0 s2

Every way to compute runs in a process that stays up, on 2 threads, in float32 and with the same weights, a synthetic
checkpoint; the processes take turns, one sample each, so that whatever else the machine does falls on all alike.
Beside the median stands its ratio to PyTorch's reparameterised model run eagerly, and how far the features are from
PyTorch's in float64, as a multiple of what PyTorch's own float32 run is off by: a fast wrong way cannot win.
`--against` measures another checkout of this project, too; the ratio to it stands in brackets.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import JSON, NAMES, Against
from engines import BASELINE, EXACT
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samples import OTHER, in_process, keep, of_checkout

RESULTS = Path(__file__).parent / "results" / "inference.json"
BATCHES = {"image": (1, 8), "text": (1, 32)}
SAMPLES_OF_ONE = 4
"""So many times as many samples are taken of a batch of one, whose times scatter more, and add up to less."""
THREADS = "2"
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": THREADS,
    "TF_NUM_INTRAOP_THREADS": THREADS,
    "TF_ENABLE_ONEDNN_OPTS": "1",  # which TensorFlow does by itself on Intel's newer processors only
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads of one process would take the cores from the others
}


class Worker:
    """A process that computes features in the ways that one library offers."""

    def __init__(self, library: str, folder: Path, checkout: Path | None = None) -> None:
        program, found_in = of_checkout(str(Path(__file__).with_name("engines.py")), checkout)
        command = [sys.executable, program, library, str(folder)]
        environment = {**os.environ, **QUIET, **found_in, "KERAS_BACKEND": library.removeprefix("keras-")}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:  # libraries print, too
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"The process ended with status {self._process.wait()}.")

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(libraries: list[str], folder: Path, against: Path | None) -> Iterator[dict[str, Worker]]:
    started: dict[str, Worker] = {}
    for library in libraries:
        started[library] = Worker(library, folder)
        if against and library.startswith("keras-"):
            started[OTHER + library] = Worker(library, folder / "other", against)
    try:
        yield started
    finally:
        for worker in started.values():
            worker.close()


def prepare(variant: str, folder: Path) -> None:
    """The checkpoint, its conversion, and the inputs."""
    from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
    from mobileclip_keras.converters.conversion.convert import convert
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.verify.data import synthetic

    source = synthetic_checkpoint(variant, folder)
    convert(source, folder / "converted", verify=False)
    np.save(folder / "image.npy", synthetic.images(8, get_variant(variant).image_size, seed=0))
    np.save(folder / "text.npy", synthetic.tokens(32, seed=0))
    (folder / "source.txt").write_text(source.name)


def prepare_other(checkout: Path, variant: str, folder: Path) -> None:
    """Lets another checkout convert the same checkpoint."""
    other = folder / "other"
    other.mkdir()
    sample = ("convert", str(folder / (folder / "source.txt").read_text()), str(other / "converted"), variant)
    in_process(str(Path(__file__).with_name("converting.py")), "--sample", json.dumps(sample), checkout=checkout)
    for tower in BATCHES:
        (other / f"{tower}.npy").symlink_to(folder / f"{tower}.npy")


def measure(
    variant: str, libraries: list[str], rounds: int, against: Path | None, console: Console
) -> list[dict[str, Any]]:
    """One row for each tower, batch and way to compute."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(variant, folder)
        if against:
            prepare_other(against, variant, folder)
        with workers(libraries, folder, against) as started:
            for tower, batches in BATCHES.items():
                for batch in batches:
                    rows += measure_case(variant, tower, batch, started, rounds, folder, console)
    return rows


def measure_case(
    variant: str,
    tower: str,
    batch: int,
    started: dict[str, Worker],
    rounds: int,
    folder: Path,
    console: Console,
) -> list[dict[str, Any]]:
    case = {"tower": tower, "batch": batch}
    ways: dict[str, tuple[str, str]] = {}
    features: dict[str, np.ndarray] = {}
    for library, worker in started.items():
        for way in worker.ask(do="prepare", **case):
            if "failed" in way:
                console.print(f"[yellow]{way['name']}: {way['failed']}", highlight=False)
                continue
            other = OTHER if library.startswith(OTHER) else ""
            ways[other + way["name"]] = (library, way["name"])
            features[other + way["name"]] = np.load(folder / ("other" if other else "") / way["features"])
    exact = features.pop(EXACT)
    timed = {name: ways[name] for name in features}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    samples = rounds if batch > 1 else SAMPLES_OF_ONE * rounds
    for _ in track(range(samples), f"{variant} {tower} x {batch}", console=console):
        for name, (library, way) in timed.items():
            # Short runs would else be charged for what the process before left in the caches.
            seconds[name].append(started[library].ask(do="time", way=way, warm=batch == 1, **case))
    for worker in started.values():
        worker.ask(do="forget")
    baseline = statistics.median(seconds[BASELINE])
    scale = rms(features[BASELINE], exact)
    return [
        {
            "variant": variant,
            **case,
            "way": name,
            "ms": round(1e3 * statistics.median(seconds[name]), 2),
            "ratio": round(statistics.median(seconds[name]) / baseline, 3),
            **to_other(seconds, name),
            "error": rms(features[name], exact),
            "error_ratio": round(rms(features[name], exact) / scale, 2),
        }
        for name in timed
    ]


def to_other(seconds: dict[str, list[float]], name: str) -> dict[str, float]:
    """How many times as long this checkout takes as the other, where that was measured, too."""
    if not (other := seconds.get(OTHER + name)):
        return {}
    return {"to_other": round(statistics.median(seconds[name]) / statistics.median(other), 3)}


def rms(features: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of the error of unit features."""
    units = [array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (features.astype(np.float64), exact)]
    return float(np.sqrt(np.mean((units[0] - units[1]) ** 2)))


def show(rows: list[dict[str, Any]], console: Console) -> None:
    cases = list(dict.fromkeys((row["variant"], row["tower"], row["batch"]) for row in rows))
    table = Table("way", *(f"{variant} {tower} x{batch}\nms  ratio  error" for variant, tower, batch in cases))
    by_way: dict[str, dict[tuple, str]] = {}
    for row in rows:
        cell = f"{row['ms']:.1f}  {row['ratio']:.2f}  {row['error_ratio']:.1f}"
        if "to_other" in row:
            cell += f"  ({row['to_other']:.2f})"
        by_way.setdefault(row["way"], {})[row["variant"], row["tower"], row["batch"]] = cell
    for way, cells in by_way.items():
        table.add_row(way, *(cells.get(case, "") for case in cases))
    console.print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Ratios to PyTorch's reparameterised model, a panel for each variant, tower and batch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys((row["variant"], row["tower"], row["batch"]) for row in rows))
    names = list(dict.fromkeys(row["way"] for row in rows))
    figure, axes = plt.subplots(1, len(cases), figsize=(2.2 * len(cases) + 3, 0.28 * len(names) + 1.2), sharey=True)
    for axis, case in zip(np.atleast_1d(axes), cases, strict=True):
        ratios = {row["way"]: row["ratio"] for row in rows if (row["variant"], row["tower"], row["batch"]) == case}
        values = [min(ratios.get(name, np.nan), 2.5) for name in names]
        colours = ["tab:blue" if name.startswith("Keras") else "tab:grey" for name in names]
        axis.barh(names, values, color=colours)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlim(0, 2.5)
        axis.set_title(f"{case[0]} {case[1]} x{case[2]}".replace("mobileclip", ""), fontsize=9)
        axis.tick_params(labelsize=8)
    np.atleast_1d(axes)[0].invert_yaxis()
    figure.supxlabel("time, as a multiple of PyTorch's reparameterised model run eagerly (longer bars are cut off)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


LIBRARIES = ("torch", "onnxruntime", "openvino", "keras-tensorflow", "keras-jax", "keras-torch")
Library = StrEnum("Library", {name: name for name in LIBRARIES})


def main(
    variants: Annotated[list[str], NAMES],
    library: Annotated[list[Library] | None, typer.Option(help="Libraries to run it by, else all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each way; of batches of one, four times as many.")] = 9,
    against: Against = None,
    out: Annotated[Path, JSON] = RESULTS,
) -> None:
    """Prints and keeps how fast some variants are."""
    console = Console()
    # The baseline is always needed, first.
    libraries = list(dict.fromkeys(["torch", *(library or Library)]))
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for variant in variants:
        made = measure(variant, libraries, rounds, against, console)
        keep(out, {made[0]["variant"]: {"rows": made}})
        rows += made
    show(rows, console)
    draw([row for kept in json.loads(out.read_text()).values() for row in kept["rows"]], out.with_suffix(".png"))
    console.print(f"{time.perf_counter() - start:.0f} s. Kept in {out} and {out.with_suffix('.png').name}.")


if __name__ == "__main__":
    typer.run(main)
