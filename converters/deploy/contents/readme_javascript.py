"""The page in a bundle's README: how JavaScript runs these files, as pasted."""

from typing import Any

PACKAGES = {
    "litert": ("@litertjs/core", "@huggingface/tokenizers"),
    "onnx": ("onnxruntime-web", "@huggingface/tokenizers"),
}
"""What npm installs, by runtime."""
_TOKENIZERS = ("@huggingface/tokenizers", "@huggingface/tokenizers/dist/tokenizers.min.mjs")
_IMPORTS = {
    "litert": (
        ("@litertjs/core", "@litertjs/core/dist/index.js"),
        ("@litertjs/wasm-utils", "@litertjs/wasm-utils/dist/index.js"),
    ),
    "onnx": (("onnxruntime-web", "onnxruntime-web/dist/ort.wasm.bundle.min.mjs"),),
}
"""Where a browser finds a package's program."""
_OPEN = {
    "litert": """import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

await loadLiteRt("node_modules/@litertjs/core/wasm/");
const image = await loadAndCompile("image.tflite", { accelerator: "wasm" });
const text = await loadAndCompile("text.tflite", { accelerator: "wasm" });
const run = async (tower, numbers, shape) => (await tower.run(new Tensor(numbers, shape)))[0].data();
const imageFeatures = (numbers) => run(image, numbers, [1, SIZE, SIZE, 3]);
const textFeatures = (row) => run(text, row, [1, LENGTH]);""",
    "onnx": """import * as ort from "onnxruntime-web";

const image = await ort.InferenceSession.create("image.onnx");
const text = await ort.InferenceSession.create("text.onnx");
const imageFeatures = async (numbers) =>
  (await image.run({ image: new ort.Tensor("float32", numbers, [1, SIZE, SIZE, 3]) })).image_features.data;
const textFeatures = async (row) =>
  (await text.run({ tokens: new ort.Tensor("int32", row, [1, LENGTH]) })).text_features.data;""",
}


def javascript_words(runtime: str) -> dict[str, Any]:
    """What a runtime's page says differently, by the name of its place."""
    places = (*_IMPORTS[runtime], _TOKENIZERS)
    return {
        "packages": " ".join(PACKAGES[runtime]),
        "imports": ",\n".join(f'  "{name}": "./node_modules/{path}"' for name, path in places),
        "open": _OPEN[runtime],
    }
