"""How fast exported towers are, beside PyTorch's own export of timm's reparameterised ones in the same runtime.

    python benchmarks/runtimes.py s0 s2 --litert-torch ~/litert-torch/bin/python --save
    python benchmarks/runtimes.py s2 --exports --save

The first measures latency. Both files of a case are open in one process, on 2 threads, and take turns, one sample each,
so that whatever else the machine does falls on both alike. Both have one fixed number of rows. `--litert-torch` is the
Python of an environment with this package and litert-torch; without it LiteRT has no other side. The second measures
what the command `export` takes: seconds, and the memory of all its processes together.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import NAMES, Repeats
from inference import BATCHES, QUIET, SAMPLES_OF_ONE, prepare
from rich.console import Console
from rich.table import Table
from samples import MIB, keep

RESULTS = Path(__file__).parent / "results" / "runtimes.json"
AT_MOST = 0.95
"""Of the time of PyTorch's export."""
SETTLING = 0.15
"""Seconds that a side runs before its sample. ONNX Runtime's threads go on looking for work after a run, for 30 ms of
processor time: of two s2 texts in turns, the first run took 56 ms, the second 34 and every other 29."""
EXPORT_SECONDS, EXPORT_GIB = 60, 4
Runtime = StrEnum("Runtime", ["litert", "onnx", "openvino"])


def latencies(variant: str, runtimes: list[Runtime], litert_torch: Path | None, rounds: int) -> list[dict[str, Any]]:
    """A row for each runtime, tower and batch."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case, ours, theirs in files(variant, runtimes, Path(name), litert_torch):
            samples = rounds * (SAMPLES_OF_ONE if case["batch"] == 1 else 1)
            rows.append({**case, **compare(**case, ours=ours, theirs=theirs, folder=Path(name), samples=samples)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def files(
    variant: str, runtimes: Sequence[str], folder: Path, litert_torch: Path | None = None
) -> Iterator[tuple[dict[str, Any], Path, Path | None]]:
    """Each runtime, tower and batch, with our file and PyTorch's, which are there until the next is asked for."""
    prepare(variant, folder)
    for runtime in runtimes:
        for tower, batches in BATCHES.items():
            for batch in batches:
                ours = our_file(variant, runtime, tower, batch, folder)
                theirs = their_file(runtime, tower, batch, folder, litert_torch)
                yield {"runtime": str(runtime), "tower": tower, "batch": batch}, ours, theirs
                for path in folder.glob("theirs*"):
                    path.unlink()
                shutil.rmtree(ours.parent)


def our_file(variant: str, runtime: str, tower: str, batch: int, folder: Path) -> Path:
    """The tower's file as `export --batch` writes it."""
    from mobileclip_keras.converters.deploy.contents.bundle import request_to_json
    from mobileclip_keras.converters.deploy.processes import in_own_process
    from mobileclip_keras.converters.deploy.request import make_request
    from mobileclip_keras.keras_models.registry import get_variant

    request = make_request(runtime, ("image", "text"), towers=tower, batch=str(batch))
    out = folder / "ours"
    out.mkdir()
    spec = {
        "folder": str(folder / "converted"),
        "request": request_to_json(request),
        "variant": get_variant(variant).name,
        "about": {"name": variant, "description": "Of a benchmark."},
        "candidates": [{"recipe": "float32", "out": str(out), "weights": None}],
    }
    in_own_process("convert", spec, "tensorflow")
    return out / f"{tower}{request.how.suffix}"


def their_file(runtime: str, tower: str, batch: int, folder: Path, litert_torch: Path | None) -> Path | None:
    """PyTorch's export, or None where it cannot be made."""
    python = litert_torch if runtime == "litert" else sys.executable
    if python is None:
        return None
    out = folder / f"theirs{batch}{ {'litert': '.tflite', 'onnx': '.onnx', 'openvino': '.xml'}[runtime] }"
    program = Path(__file__).with_name("torch_exports.py")
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": "torch", "PYTHONPATH": str(program.parents[1])}
    command = [str(python), str(program), runtime, str(folder), tower, str(batch), str(out)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or not out.exists():
        print(f"{runtime} {tower} x{batch}: PyTorch's export failed: {done.stdout[-400:]}", file=sys.stderr)
        return None
    return out


def compare(
    runtime: str, tower: str, batch: int, ours: Path, theirs: Path | None, folder: Path, samples: int
) -> dict[str, float]:
    """Medians of both, in a process of their own."""
    request = json.dumps([runtime, tower, batch, str(ours), theirs and str(theirs), str(folder), samples])
    command = [sys.executable, __file__, "--sample", request]
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def sample(request: str) -> None:
    """Prints the medians of a case as JSON."""
    from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES, open_tower

    runtime, tower, batch, ours, theirs, folder, samples = json.loads(request)
    given = np.load(Path(folder, f"{tower}.npy"))[:batch]
    name = "image" if tower == "image" else "tokens"
    way = RUNTIMES[runtime].ways[0]
    run = open_tower(runtime, Path(ours), batch, way)
    sides = {"ours": lambda: run({name: given if tower == "image" else given.astype(np.int32)})}
    if theirs:
        sides["theirs"] = their_run(runtime, Path(theirs), torch_layout(given, tower))
    features = {side: next(iter(function().values())) for side, function in sides.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(samples):
        for side, function in sides.items():
            settle(function)
            start = time.perf_counter()
            function()
            seconds[side].append(time.perf_counter() - start)
    found = {f"{side}_ms": round(1e3 * statistics.median(taken), 2) for side, taken in seconds.items()}
    if theirs:
        found["ratio"] = round(statistics.median(seconds["ours"]) / statistics.median(seconds["theirs"]), 3)
        found["largest_difference"] = float(np.abs(unit(features["ours"]) - unit(features["theirs"])).max())
    print(json.dumps(found))


def settle(function: Callable[[], Any]) -> None:
    """Runs a side until nothing of the other is left: neither what it had in the caches, nor its threads."""
    start = time.perf_counter()
    while True:
        function()
        if time.perf_counter() - start > SETTLING:
            return


def torch_layout(given: np.ndarray, tower: str) -> np.ndarray:
    return np.ascontiguousarray(given.transpose(0, 3, 1, 2)) if tower == "image" else given


def their_run(runtime: str, path: Path, given: np.ndarray) -> Any:
    """PyTorch's file in the runtime, by our own way to open one. It has an input and an output of some name."""
    from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES, open_tower

    name, dtype = input_of(runtime, path)
    run = open_tower(runtime, path, len(given), RUNTIMES[runtime].ways[0])
    array = given.astype(dtype)
    return lambda: run({name: array})


def input_of(runtime: str, path: Path) -> tuple[Any, str]:
    """The name and the dtype of a file's one input."""
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_path=str(path)).get_signature_runner()
        ((name, details),) = runner.get_input_details().items()
        return name, np.dtype(details["dtype"]).name
    if runtime == "onnx":
        import onnxruntime

        (given,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
        return given.name, {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}[given.type]
    import openvino

    (given,) = openvino.Core().read_model(str(path)).inputs
    return given.get_any_name(), given.get_element_type().to_dtype().name


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def exports(variant: str, runtimes: list[Runtime], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of the command, proof included."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "keras")
        convert = [*command("convert_main"), "--src", "synthetic"]
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        subprocess.run([*convert, "--variant", variant, "--out", str(folder)], env=environment, check=True)
        for runtime in runtimes:
            taken = [export(folder, runtime, Path(name, f"bundle{turn}"), environment) for turn in range(rounds)]
            found[str(runtime)] = {key: statistics.median(each[key] for each in taken) for key in taken[0]}
    return found


def command(function: str) -> list[str]:
    """A command of this package, by the function that it runs."""
    return [sys.executable, "-c", f"from mobileclip_keras.converters.cli.app import {function}; {function}()"]


def export(folder: Path, runtime: str, out: Path, environment: dict[str, str]) -> dict[str, float]:
    given = [*command("main"), "export", str(folder), "--to", runtime, "--out", str(out)]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(given, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of_family(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"export --to {runtime} ended with status {process.returncode}.")
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return {"seconds": round(seconds, 1), "peak_gib": round(peak / MIB / 1024, 2)}


def memory_of_family(pid: int) -> int:
    """Bytes that a process and its descendants have in memory; what they share counts once (proportional set size)."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return total
    return total + sum(memory_of_family(int(child)) for child in children)


def show_latencies(variant: str, rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("runtime", "case", "ours, ms", "PyTorch's export, ms", "ratio", "", title=variant)
    for row in rows:
        ratio = row.get("ratio")
        table.add_row(
            row["runtime"],
            f"{row['tower']} x{row['batch']}",
            f"{row['ours_ms']:.1f}",
            f"{row['theirs_ms']:.1f}" if ratio else "",
            f"{ratio:.2f}" if ratio else "",
            "" if ratio is None or ratio <= AT_MOST else f"above {AT_MOST}",
        )
    console.print(table)


def show_exports(variant: str, found: dict[str, dict[str, float]], console: Console) -> None:
    table = Table("runtime", "seconds", "GiB", "", title=f"export of {variant}")
    for runtime, taken in found.items():
        holds = taken["seconds"] <= EXPORT_SECONDS and taken["peak_gib"] <= EXPORT_GIB
        table.add_row(runtime, f"{taken['seconds']}", f"{taken['peak_gib']}", "" if holds else "above the limit")
    console.print(table)


def main(
    variants: Annotated[list[str], NAMES],
    to: Annotated[list[Runtime] | None, typer.Option(help="Runtimes, else all.")] = None,
    litert_torch: Annotated[Path | None, typer.Option(exists=True, help="A Python that has litert-torch.")] = None,
    exports_: Annotated[bool, typer.Option("--exports", help="Measures the command instead of its files.")] = False,
    rounds: Repeats = 9,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/runtimes.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    console = Console(width=120)
    for variant in variants:
        if exports_:
            found = exports(variant, to or list(Runtime), rounds)
            show_exports(variant, found, console)
            outcome = {f"{variant}, {runtime}, export": taken for runtime, taken in found.items()}
        else:
            rows = latencies(variant, to or list(Runtime), litert_torch, rounds)
            show_latencies(variant, rows, console)
            outcome = {
                f"{variant}, {runtime}": {"rows": [row for row in rows if row["runtime"] == runtime]}
                for runtime in to or list(Runtime)
            }
        if save:
            keep(RESULTS, outcome)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sample"]:
        sample(sys.argv[2])
    else:
        typer.run(main)
