"""What a page computes in a browser: the towers on any inputs, and the page's own comparison with PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....verify.compare import Features
from ..request import DeployError
from ..runtimes.registry import RUNTIMES
from .browser import opened_page
from .serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from ..proofs.inputs import ProofInputs

EMPTY = "/empty.html"
GIVEN = "/given.bin"

_RUN = """async ({ tower, file, rows }) => {
  const { Runtime } = await import("/model/runtime.js");
  const runtime = new Runtime("wasm", { [tower]: { file } });
  await runtime.load(() => {});
  const Kind = tower === "text" ? Int32Array : Float32Array;
  const data = new Kind(await (await fetch("/given.bin")).arrayBuffer());
  const length = data.length / rows;
  const features = [];
  for (let start = 0; start < data.length; start += length) {
    features.push(Array.from(await runtime.run(tower, data.subarray(start, start + length))));
  }
  return features;
}"""
_CHECK = """async () => {
  const { Model } = await import("/model/client.js");
  const model = new Model();
  const facts = await model.load("wasm", () => {});
  return { ...(await model.check()), device: facts.device, threads: facts.threads };
}"""


def run_in_browser(folder: Path, inputs: "ProofInputs") -> Features:
    """The features of both towers, in WebAssembly, row by row as the page computes them.

    Args:
        folder: of the page. bundle.json need not be there yet.
        inputs: to run.

    Raises:
        DeployError: where the browser fails.
    """
    extra = {EMPTY: b"<!doctype html>"}
    with served(folder, extra) as address, opened_page() as page:
        page.goto(f"{address}{EMPTY[1:]}")

        def run(tower: str, array: np.ndarray) -> np.ndarray:
            extra[GIVEN] = np.ascontiguousarray(array).tobytes()
            given = {"tower": tower, "file": f"{tower}{RUNTIMES['web'].suffix}", "rows": len(array)}
            return np.asarray(page.evaluate(_RUN, given), np.float32)

        images = run("image", inputs.fixed.images.astype("<f4"))
        return Features(images, run("text", inputs.fixed.tokens.astype("<i4")))


def check_page(folder: Path) -> dict[str, Any]:
    """The page's own comparison, from picture files and texts to logits, and that it asks nobody else.

    Returns:
        Differences, as `selfCheck` of the page has them, and the browser's name.

    Raises:
        DeployError: where it fails, or another host is asked.
    """
    with served(folder, {EMPTY: b"<!doctype html>"}) as address, opened_page() as page:
        asked = record_requests(page)
        page.goto(f"{address}{EMPTY[1:]}")
        found = page.evaluate(_CHECK)
        found["browser"] = page.evaluate("navigator.userAgent.match(/Chrom\\S+/)?.[0] ?? navigator.userAgent")
    strangers = [each for each in asked if not each.startswith((address, "blob:", "data:"))]
    if strangers:
        raise DeployError(f"The page asks for {strangers[0]}, which does not lie in its folder.")
    if not found["exact"]:
        raise DeployError(
            "The page does not compute what PyTorch computes: pixels differ by up to "
            f"{found['pixels']:.3g}, token ids in {found['ids']} texts, and logits by {found['logitRatio']:.3g} times "
            "PyTorch's own largest error."
        )
    return found


def record_requests(page: "Page") -> list[str]:
    """A list that every address that a page asks for is added to."""
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    return asked
