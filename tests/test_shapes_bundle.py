"""Bundles of the tiny model: its own licence, its accuracy in another runtime, and a page that begins with shapes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.converters.checkpoints.source import resolved
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.request import DeployError
from mobileclip_keras.converters.deploy.web.browser import opened_page, why_no_browser
from mobileclip_keras.converters.deploy.web.page_files import SHAPE_LABELS
from mobileclip_keras.converters.deploy.web.runtime_files import runtime_files
from mobileclip_keras.converters.deploy.web.serving import served
from mobileclip_keras.converters.hub.terms import OUR_OWN
from mobileclip_keras.verify.shapes.samples import LABELS
from mobileclip_keras.verify.shapes.task import accuracy, parts

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model, verified. Not to be changed."""
    out = tmp_path_factory.mktemp("shapes") / "shapes-keras"
    with resolved("shapes", None) as checkpoint:
        convert(checkpoint, out)
    return out


def check_terms(done: Exported) -> None:
    """Nothing says that the weights are Apple's."""
    about = json.loads((done.folder / "bundle.json").read_text())
    assert about["licence"] == {"name": "apache-2.0", "file": "LICENSE", "notice": OUR_OWN.notice}
    assert (done.folder / "LICENSE").read_text() == OUR_OWN.text
    readme = (done.folder / "README.md").read_text()
    assert OUR_OWN.notice in readme and "apple-amlr" not in readme and "commercial" not in readme


def test_a_bundle_is_as_accurate_as_the_model(folder: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    done = export(str(folder), "litert", out=folder.with_name("bundle"), batch="100")
    check_terms(done)
    run = {
        tower: Interpreter(str(done.folder / f"{tower}.tflite")).get_signature_runner() for tower in ("image", "text")
    }

    def encode(tower: str, name: str, values: np.ndarray) -> np.ndarray:
        features = []
        for start in range(0, len(values), 100):
            rows = values[start : start + 100]
            padded = np.concatenate([rows, np.repeat(rows[-1:], 100 - len(rows), axis=0)])
            features.append(run[tower](**{name: padded})[f"{tower}_features"][: len(rows)])
        return np.concatenate(features)

    asked = parts(100, ("object",))
    found = accuracy(
        lambda images: encode("image", "image", images.astype(np.float32) / 255),
        lambda texts: encode("text", "tokens", np.asarray(mk.Tokenizer()(texts), np.int32)),
        asked,
    )
    model = mk.MobileClipModel.from_pretrained(folder)
    in_keras = accuracy(
        lambda images: np.asarray(model.encode_image(images.astype(np.float32) / 255)),
        lambda texts: np.asarray(model.encode_text(mk.Tokenizer()(texts))),
        asked,
    )
    assert found == in_keras


@pytest.mark.skipif(why_no_browser() is not None, reason=f"{why_no_browser()}")
def test_its_page_labels_shapes_rightly(folder: Path) -> None:
    try:
        runtime_files(None)
    except DeployError as error:
        pytest.skip(str(error))
    done = export(str(folder), "web", out=folder.with_name("page"))
    check_terms(done)
    best = """() => {
        const lines = [...document.querySelectorAll("#bars li")];
        const shares = lines.map((line) => parseFloat(line.querySelector("output").value));
        if (shares.some(Number.isNaN)) return null;
        return lines[shares.indexOf(Math.max(...shares))].querySelector("input").value;
    }"""
    with served(done.folder) as address, opened_page() as page:
        page.goto(address)
        page.wait_for_selector("#app:not([hidden])", timeout=60_000)
        found = []
        for name in ("drawn", *LABELS):
            if name != "drawn":
                page.check("input[value=file]", force=True)
                page.get_by_role("button", name=f"Example: {name}", exact=True).click(timeout=20_000)
            for _ in range(100):  # the bars move once the worker has answered
                page.wait_for_timeout(100)
                if page.evaluate(best) == (name if name != "drawn" else SHAPE_LABELS[0]):
                    break
            found.append(page.evaluate(best))
    assert found == list(SHAPE_LABELS)
