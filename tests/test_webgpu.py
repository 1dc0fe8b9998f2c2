"""What the lint passes, LiteRT.js computes whole on WebGPU, with the features of the processor."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy import jobs
from mobileclip_keras.converters.deploy.half import round_to_half
from mobileclip_keras.converters.deploy.request import DeployError, make_request
from mobileclip_keras.converters.deploy.runtimes.lint import lint
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of
from mobileclip_keras.converters.deploy.runtimes.registry import open_tower
from mobileclip_keras.converters.deploy.web.browser import opened_page, why_no_browser
from mobileclip_keras.converters.deploy.web.page_files import write_page
from mobileclip_keras.converters.deploy.web.runtime_files import runtime_files
from mobileclip_keras.converters.deploy.web.serving import served
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer

from .small import small_model
from .software_webgpu import FLAGS
from .support import images

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
    pytest.mark.skipif(why_no_browser() is not None, reason=f"{why_no_browser()}"),
]

WHOLE = 1e-6
"""Of a feature, whose row has length 1: some hundred roundings of float32."""
RUN = """async (given) => {
  const { Runtime } = await import("/model/runtime.js");
  const runtime = new Runtime("wasm", {});
  await runtime.load(() => {});
  const { loadAndCompile, Tensor } = runtime.litert;
  const bytes = new Uint8Array(await (await fetch("/tower.tflite")).arrayBuffer());
  const model = await loadAndCompile(bytes, { accelerator: "webgpu", gpuOptions: { precision: "fp32" } });
  const inputs = {};
  for (const { name, shape } of given)
    inputs[name] = new Tensor(new Float32Array(await (await fetch(`/${name}.bin`)).arrayBuffer()), shape);
  const whole = model.isFullyAccelerated && model.options.accelerator === "webgpu";
  const features = whole ? Object.values(await model.run(inputs))[0] : null;
  return { whole, features: features && Array.from(await features.data()) };
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, which towers are put into."""
    try:
        files = runtime_files(None)
    except DeployError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, files)
    return folder


def on_webgpu(page: Path, tower: Path, given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Whether a file is taken whole, and its features of one row."""
    (page / "tower.tflite").write_bytes(tower.read_bytes())
    extra = {f"/{name}.bin": np.ascontiguousarray(array).tobytes() for name, array in given.items()}
    with served(page, {"/empty.html": b"<!doctype html>", **extra}) as address, opened_page(FLAGS) as opened:
        opened.goto(f"{address}empty.html")
        return opened.evaluate(RUN, [{"name": name, "shape": list(array.shape)} for name, array in given.items()])


@pytest.mark.parametrize("recipe", ["float32", "fp16"])
@pytest.mark.parametrize("tower", ["small_mci", "small_vit", "small_mci_layer", "small_vit_clip"])
def test_image_towers(page: Path, tower: str, recipe: str, tmp_path: Path) -> None:
    model = small_model(tower, None, form="inference")
    request = make_request("litert", ("image",), quantize=recipe)
    (part,) = parts_of(model, request, None)
    path = tmp_path / "image.tflite"
    jobs.write_part(part, request, path)
    given = {"image": images(model.image_encoder.image_size, 1)}
    if recipe == "fp16":
        round_to_half(request.how, path, [given])
    found = on_webgpu(page, path, given)
    assert found["whole"]
    expected = open_tower("litert", path, 1)(given)["image_features"][0]
    assert np.abs(np.array(found["features"]) - expected).max() < WHOLE


@pytest.mark.parametrize("tower", ["small_mct", "small_transformer"])
def test_what_follows_the_look_up_of_a_text_tower(page: Path, tower: str, tmp_path: Path) -> None:
    model = small_model(None, tower, form="inference")
    request = make_request("litert", ("text",), embed_outside=True)
    given = {"tokens": np.array(Tokenizer()(["a photo of a cat"]), np.int32)}
    for part in parts_of(model, request, None):
        path = tmp_path / f"{part.name}.tflite"
        jobs.write_part(part, request, path)
        if part.name == "text_lookup":
            given = open_tower("litert", path, 1)(given)
    assert lint(request.how.code.operations(path)) == []
    found = on_webgpu(page, path, given)
    assert found["whole"]
    expected = open_tower("litert", path, 1)(given)["text_features"][0]
    assert np.abs(np.array(found["features"]) - expected).max() < WHOLE
