"""What computes faster in a browser: LiteRT.js as the page runs it, or onnxruntime-web; both in WebAssembly.

    python benchmarks/web_runtimes.py s0 --save

The towers are exported for both. npm fetches onnxruntime-web. The runtimes take turns in one page of Chromium, one
sample each, so that whatever else the machine does falls on both alike. One thread, then two.
"""

import json
import statistics
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import NAMES, Repeats
from inference import prepare
from rich.console import Console
from rich.table import Table
from runtimes import our_file
from samples import keep

RESULTS = Path(__file__).parent / "results" / "web_runtimes.json"
ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
THREADS = (1, 2)
INPUTS = {"image": "image", "text": "tokens"}

PAGE = """<!doctype html><script type="module">
import * as ort from "./onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { Runtime } from "./model/runtime.js";

const numbers = async (tower) => {
  const bytes = await (await fetch(`${tower}.bin`)).arrayBuffer();
  return tower === "image" ? new Float32Array(bytes) : new Int32Array(bytes);
};

async function byOnnx(tower, name, shape, threads) {
  ort.env.wasm.wasmPaths = { wasm: new URL("onnxruntime-web/dist/ort-wasm-simd-threaded.wasm", location).href };
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(`onnx/${tower}.onnx`, { graphOptimizationLevel: "all" });
  const given = { [name]: new ort.Tensor(tower === "image" ? "float32" : "int32", await numbers(tower), shape) };
  return async () => Object.values(await session.run(given))[0].data;
}

async function byLiteRT(tower, threads) {
  Object.defineProperty(navigator, "hardwareConcurrency", { value: 2 * threads }); // it takes half of them
  const runtime = new Runtime("wasm", { [tower]: { file: `litert/${tower}.tflite` } });
  await runtime.load(() => {});
  if (runtime.threads !== threads) throw new Error(`It takes ${runtime.threads} threads, not ${threads}.`);
  const given = await numbers(tower);
  return () => runtime.run(tower, given);
}

window.compare = async (tower, name, shape, threads, samples) => {
  const runs = { onnx: await byOnnx(tower, name, shape, threads), litert: await byLiteRT(tower, threads) };
  const features = {}, milliseconds = { onnx: [], litert: [] };
  for (const [runtime, run] of Object.entries(runs)) features[runtime] = Array.from(await run());
  for (let sample = 0; sample < samples; sample++) {
    for (const [runtime, run] of Object.entries(runs)) {
      await run();
      const start = performance.now();
      await run();
      milliseconds[runtime].push(performance.now() - start);
    }
  }
  return { features, milliseconds };
};
window.ready = true;
</script>"""


def fill(folder: Path, variant: str) -> dict[str, list[int]]:
    """Everything that the page loads; gives the shape of each tower's input."""
    from mobileclip_keras.converters.deploy.web.page_files import write_page
    from mobileclip_keras.converters.deploy.web.runtime_files import runtime_files

    work = folder / "work"
    work.mkdir()
    prepare(variant, work)
    shapes = {}
    for tower in INPUTS:
        for runtime in ("onnx", "litert"):
            made = our_file(variant, runtime, tower, 1, work)
            target = folder / runtime
            target.mkdir(exist_ok=True)
            for path in made.parent.iterdir():
                path.rename(target / path.name)
            made.parent.rmdir()
        given = np.load(work / f"{tower}.npy")[:1].astype("float32" if tower == "image" else "int32")
        (folder / f"{tower}.bin").write_bytes(given.tobytes())
        shapes[tower] = list(given.shape)
    write_page(folder, runtime_files(None))
    command = ["npm", "pack", "--silent", ONNXRUNTIME_WEB]
    archive = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with tarfile.open(folder / archive) as file:
        file.extractall(folder / "npm", filter="data")
    (folder / "npm" / "package").rename(folder / "onnxruntime-web")
    (folder / "index.html").write_text(PAGE)
    return shapes


def measure(variant: str, samples: int) -> list[dict[str, Any]]:
    """A row for each tower and number of threads."""
    from mobileclip_keras.converters.deploy.web.browser import opened_page
    from mobileclip_keras.converters.deploy.web.serving import served

    rows = []
    with tempfile.TemporaryDirectory() as name:
        shapes = fill(Path(name), variant)
        for threads in THREADS:
            for tower, shape in shapes.items():
                with served(Path(name)) as address, opened_page() as page:
                    page.goto(address)
                    page.wait_for_function("window.ready")
                    asked = [tower, INPUTS[tower], shape, threads, samples]
                    found = page.evaluate("asked => window.compare(...asked)", asked)
                medians = {key: statistics.median(taken) for key, taken in found["milliseconds"].items()}
                features = {key: np.array(value) / np.linalg.norm(value) for key, value in found["features"].items()}
                rows.append(
                    {
                        "tower": tower,
                        "threads": threads,
                        "onnxruntime_web_ms": round(medians["onnx"], 1),
                        "litert_js_ms": round(medians["litert"], 1),
                        "ratio": round(medians["litert"] / medians["onnx"], 2),
                        "largest_difference": float(np.abs(features["onnx"] - features["litert"]).max()),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main(
    variants: Annotated[list[str], NAMES],
    rounds: Repeats = 9,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/web_runtimes.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    for variant in variants:
        rows = measure(variant, rounds)
        table = Table(*rows[0], title=variant)
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console(width=120).print(table)
        if save:
            keep(RESULTS, {variant: {"rows": rows}})


if __name__ == "__main__":
    typer.run(main)
