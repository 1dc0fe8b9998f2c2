"""How fast an exported tower could be at most beside PyTorch's own export: the arithmetic that both must do.

    python benchmarks/runtime_floor.py s0 s2 --save

ONNX Runtime and OpenVINO say what each operation of a file takes. Convolutions, products and GELU are the model itself:
both files have the same ones, and the runtime computes them by the same programs. Their part of PyTorch's file is the
least that ours can take of it. What is left, such as sums, scales and another order of the axes, is all that an export
can save.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import NAMES
from inference import QUIET
from rich.console import Console
from rich.table import Table
from runtimes import files, input_of, torch_layout
from samples import keep

RESULTS = Path(__file__).parent / "results" / "runtime_floor.json"
KINDS = {
    "convolutions": ("conv",),
    "products": ("matmul", "gemm", "fullyconnected", "attention", "softmax", "scaleddotproduct"),
    "GELU": ("gelu", "erf"),
}
"""The arithmetic of a tower: what the names of its operations hold, in small letters."""
REST = "the rest"
WARM, RUNS = 3, 15
Runtime = StrEnum("Runtime", ["onnx", "openvino"])


def kind_of(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def by_onnx(path: Path, given: np.ndarray, folder: Path) -> Counter[str]:
    """Milliseconds of a run by operation, as a session of our own options says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for _ in range(WARM + RUNS):
        session.run(None, {name: given})
    written = Path(session.end_profiling())
    events = [each for each in json.loads(written.read_text()) if each.get("cat") == "Node"]
    written.unlink()
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for each in events:
        if each["name"].endswith("_kernel_time"):
            times.setdefault(each["name"], []).append(each["dur"] / 1e3)
            kinds[each["name"]] = each["args"]["op_name"]
    return _medians(times, kinds)


def by_openvino(path: Path, given: np.ndarray, folder: Path) -> Counter[str]:
    """Milliseconds of a run by operation, in float32."""
    import openvino

    core = openvino.Core()
    options = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    model = core.read_model(str(path))
    model.reshape([len(given), *given.shape[1:]])
    request = core.compile_model(model, "CPU", options).create_infer_request()
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for _ in range(WARM + RUNS):
        request.infer([given])
        for each in request.get_profiling_info():
            if taken := each.real_time.total_seconds():
                times.setdefault(each.node_name, []).append(1e3 * taken)
                kinds[each.node_name] = each.node_type
    return _medians(times, kinds)


def _medians(times: dict[str, list[float]], kinds: dict[str, str]) -> Counter[str]:
    """The median of each operation, without the first runs, by kind."""
    found: Counter[str] = Counter()
    for name, taken in times.items():
        found[kind_of(kinds[name])] += float(np.median(taken[WARM:] or taken))
    return found


def sample(request: str) -> None:
    """Prints the times of a file as JSON."""
    runtime, tower, batch, path, is_ours, folder = json.loads(request)
    given = np.load(Path(folder, f"{tower}.npy"))[:batch]
    given = given if is_ours else torch_layout(given, tower)
    _, dtype = input_of(runtime, Path(path))
    times = {"onnx": by_onnx, "openvino": by_openvino}[runtime](Path(path), given.astype(dtype), Path(folder))
    print(json.dumps({kind: round(times[kind], 3) for kind in (*KINDS, REST)}))


def profiled(runtime: str, tower: str, batch: int, path: Path, is_ours: bool, folder: Path) -> dict[str, float]:
    """The times of a file, from a process of its own."""
    request = json.dumps([runtime, tower, batch, str(path), is_ours, str(folder)])
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, __file__, "--sample", request]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cases(variant: str, runtimes: list[Runtime]) -> list[dict[str, Any]]:
    """A row for each runtime, tower and batch."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case, ours, theirs in files(variant, runtimes, Path(name)):
            if theirs is None:
                raise RuntimeError("Without PyTorch's export there is nothing to compare with.")
            both = {
                side: profiled(**case, path=path, is_ours=side == "ours", folder=Path(name))
                for side, path in (("ours", ours), ("theirs", theirs))
            }
            least = sum(both["theirs"][kind] for kind in KINDS) / sum(both["theirs"].values())
            rows.append({**case, **both, "floor": round(least, 3)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def show(variant: str, rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("runtime", "case", "side", *(f"{kind}, ms" for kind in (*KINDS, REST)), "floor", title=variant)
    for row in rows:
        for side in ("ours", "theirs"):
            times = (f"{row[side][kind]:.2f}" for kind in (*KINDS, REST))
            least = f"{row['floor']:.2f}" if side == "theirs" else ""
            table.add_row(row["runtime"], f"{row['tower']} x{row['batch']}", side, *times, least)
    console.print(table)


def main(
    variants: Annotated[list[str], NAMES],
    to: Annotated[list[Runtime] | None, typer.Option(help="Runtimes, else both.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/runtime_floor.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    console = Console(width=120)
    for variant in variants:
        rows = cases(variant, to or list(Runtime))
        show(variant, rows, console)
        if save:
            keep(RESULTS, {variant: {"rows": rows}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sample"]:
        sample(sys.argv[2])
    else:
        typer.run(main)
