"""The README of a bundle: what lies in it, and how to run it in Python, Kotlin and JavaScript."""

from importlib import resources
from string import Template
from typing import Any

from ....keras_models.registry import get_variant
from ...hub.model_card import tuning_words
from ...hub.terms import bundle_terms
from ..proofs.proof import Check
from ..quantize.recipes import in_words
from .readme_javascript import javascript_words

README_FILE = "README.md"

_INSTALL = {
    "litert": "numpy pillow tokenizers ai-edge-litert",
    "onnx": "numpy pillow tokenizers onnxruntime",
    "openvino": "numpy pillow tokenizers openvino",
    "saved-model": "numpy pillow tokenizers tensorflow",
    "web": "numpy pillow tokenizers ai-edge-litert",
}
_OPEN = {
    "litert": """from ai_edge_litert.interpreter import Interpreter


def tower(name):
    interpreter = Interpreter(model_path=about["towers"][name]["file"])
    return interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
""",
    "onnx": """import onnxruntime


def tower(name):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # makes floats of stored integers once
    session = onnxruntime.InferenceSession(about["towers"][name]["file"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **given: dict(zip(names, session.run(names, given)))
""",
    "openvino": """import openvino


def tower(name):  # the hints keep float32; without them, some processors compute in half precision or in integers
    hint = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(about["towers"][name]["file"], "CPU", hint)
    return lambda **given: {output.get_any_name(): value for output, value in compiled(given).items()}
""",
    "saved-model": """import tensorflow as tf


def tower(name):
    loaded = tf.saved_model.load(about["towers"][name]["file"])
    signature = loaded.signatures["serving_default"]
    run = lambda **given: {key: value.numpy() for key, value in signature(**given).items()}
    run.loaded = loaded  # keeps the variables alive
    return run
""",
}
_OPEN["web"] = _OPEN["litert"]
_HEAD = """import json

import numpy as np
"""
_IMAGE_HEAD = "from PIL import Image\n"
_TEXT_HEAD = "from tokenizers import Tokenizer\n"
_ABOUT = """
about = json.load(open("bundle.json", encoding="utf-8"))
"""
_IMAGE = """

image = tower("image")
pictures = ["golden/cat.jpg", "golden/rocket.jpg"]
image_features = np.concatenate([image(<given>=pixels(path)<filled>)["image_features"]<first> for path in pictures])
"""
_TEXT = """

text = tower("text")
"""
_LOOK_UP = """text_lookup = tower("text_lookup")
"""
_LABELS = """labels = ["a photo of a cat", "a photo of a rocket"]
text_features = np.concatenate([<call>["text_features"]<first> for label in labels])
"""
_SCORES = """
logits = about["scores"]["logit_scale"] * image_features @ text_features.T + (about["scores"]["logit_bias"] or 0)
probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
print((probabilities / probabilities.sum(axis=1, keepdims=True)).round(3))
"""
_PIXELS = '''

def pixels(path):
    """(1, size, size, 3) float32, as "images" in bundle.json says."""
    images = about["images"]
    size = images["image_size"]
    picture = Image.open(path).convert("RGB")
    width, height = (size * side // min(picture.size) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling[images["resize"]["interpolation"].upper()])
    left, top = round((width - size) / 2), round((height - size) / 2)
    picture = picture.crop((left, top, left + size, top + size))
    numbers = np.asarray(picture, np.float32) / np.float32(255)
    return ((numbers - np.float32(images["mean"])) / np.float32(images["std"]))[None]
'''
_RAW = '''

def pixels(path):
    """(1, height, width, 3) uint8. The graph resizes, crops and normalises."""
    picture = Image.open(path).convert("RGB")
    size = about["towers"]["image"]["inputs"]["pixels"]["shape"][1:3]
    if "any" not in size:
        picture = picture.resize((size[1], size[0]))
    return np.asarray(picture)[None]
'''
_TOKENS = '''

tokenizer = Tokenizer.from_file("tokenizer/tokenizer.json")  # pads with 0 and cuts by itself


def tokens(text):
    """(1, 77) int32, as "texts" in bundle.json says."""
    return np.array([tokenizer.encode(text).ids], np.int32)
'''


def render_readme(about: dict[str, Any], checks: list[Check]) -> str:
    """The text.

    Args:
        about: the content of bundle.json.
        checks: its proof.
    """
    runtime, towers = about["request"]["runtime"], about["request"]["towers"]
    rows = [
        f"| {check.way or 'default'} | {check.batch} | {check.rounding.rms_ratio:.2f} | "
        f"{check.rounding.max_ratio:.2f} | {check.cost.smallest_cosine:.7f} | {'yes' if check.judged else 'no'} |"
        for check in checks
    ]
    files = [
        f"| `{part['file']}` | {_tensors(part['inputs'])} | {_tensors(part['outputs'])} |"
        for part in about["towers"].values()
    ]
    snippets = [_snippet(name, about) for name in ("page", "kotlin", "javascript")]
    return Template(_asset("README.md.template")).substitute(
        title=about["model"]["title"],
        runtime=about["runtime"],
        install=_INSTALL[runtime],
        python=_python(about, runtime, towers),
        files="\n".join(files),
        checks="\n".join(rows),
        tuned=_tuned(about),
        rounding=_rounding(about),
        others="\n".join(filter(None, snippets)),
        licence=bundle_terms(get_variant(about["model"]["variant"])),
    )


def _tuned(about: dict[str, Any]) -> str:
    """How the weights were fine-tuned, and from what; "" for those of the original."""
    record = about["model"].get("fine_tuned")
    if record is None:
        return ""
    warning = "So they are not those of the original: what it can do, they may do better or worse."
    return f"{tuning_words(record)} {warning}\n\n"


def _rounding(about: dict[str, Any]) -> str:
    """What rounded weights cost; "" for float32."""
    certificate = about.get("quantization")
    if certificate is None:
        return ""
    rows = [
        f"| {trial['recipe']} | {name} | {tower['bytes'] / 1e6:.1f} | {tower['size']:.3f} | {tower['latency']:.2f} | "
        f"{'no numbers' if tower['smallest_cosine'] is None else round(tower['smallest_cosine'], 5)} | "
        f"{tower['agreement']:.1%} |"
        for trial in certificate["tried"]
        for name, tower in trial["towers"].items()
    ]
    counts = ", ".join(f"{each['count']} {kind} of {each['from']}" for kind, each in certificate["measured_on"].items())
    return Template(_asset("rounding.template")).substitute(
        stored=in_words(certificate["stored"]), counts=counts, rows="\n".join(rows)
    )


def _tensors(tensors: dict[str, Any]) -> str:
    return ", ".join(
        f"`{name}` {each['dtype']} ({', '.join(map(str, each['shape']))})" for name, each in tensors.items()
    )


def _python(about: dict[str, Any], runtime: str, towers: list[str]) -> str:
    """A program that compares pictures with texts, as far as the towers go."""
    request = about["request"]
    batch = min(request["batches"], default=1)
    words = {
        "given": "pixels" if request["preprocess"] else "image",
        # A file of a larger batch gets the same row as often as it takes.
        "filled": "" if batch == 1 else f".repeat({batch}, axis=0)",
        "first": "" if batch == 1 else "[:1]",
    }
    words["call"] = f"text(tokens=tokens(label){words['filled']})"
    if request["embed_outside"]:
        words["call"] = f"text(**text_lookup(tokens=tokens(label){words['filled']}))"
    parts = [_HEAD, _IMAGE_HEAD * ("image" in towers), _TEXT_HEAD * ("text" in towers), _ABOUT, _OPEN[runtime]]
    if "image" in towers:
        parts += [_RAW if request["preprocess"] else _PIXELS, _IMAGE]
    if "text" in towers:
        parts += [_TOKENS, _TEXT, _LOOK_UP * request["embed_outside"], _LABELS]
    parts.append(_SCORES if len(towers) == 2 else f"print({towers[0]}_features.shape)")
    program = "".join(parts)
    for key, word in words.items():
        program = program.replace(f"<{key}>", word)
    return program.strip("\n")


def _snippet(language: str, about: dict[str, Any]) -> str:
    """How another language runs these files; "" where its runtime is another one."""
    runtimes = {"kotlin": ("litert",), "javascript": ("litert", "onnx"), "page": ("web",)}
    runtime = about["request"]["runtime"]
    if runtime not in runtimes[language] or about["request"]["preprocess"] or len(about["request"]["towers"]) < 2:
        return ""
    if about["request"]["embed_outside"] or (about["request"]["batches"] or [1]) != [1]:
        return ""
    images = about["images"]
    name, words = f"{language}.{runtime}", {}
    if language == "javascript":
        name, words = language, javascript_words(runtime)
    return Template(_asset(f"{name}.template")).substitute(
        words,
        size=images["image_size"],
        mean=", ".join(map(str, images["mean"])),
        std=", ".join(map(str, images["std"])),
        scale=about["scores"]["logit_scale"],
        bias=about["scores"]["logit_bias"] or 0,
        width=about["model"]["embed_dim"],
        length=about["texts"]["context_length"],
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
