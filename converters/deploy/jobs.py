"""What export does in processes of its own: converting, and computing with PyTorch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ...keras_models.registry import get_variant
from .bundle import request_from_json
from .inputs import ProofInputs, proof_inputs
from .request import Request

Facts = dict[str, Any]
HALF_LARGEST = 65_504.0
"""The largest number of float16."""


def convert(spec: Facts) -> Facts:
    """Writes the files of the towers, by TensorFlow.

    Args:
        spec: "folder" that was converted, "out" to write to, "request" and "variant".

    Returns:
        What bundle.json says of files and model.
    """
    from ...keras_models.inputs.preprocessing import ImagePreprocessor
    from ...keras_models.models.features import logit_bias, logit_scale
    from ...keras_models.store.load import load_folder
    from .parts import parts_of

    folder, out, request = Path(spec["folder"]), Path(spec["out"]), request_from_json(spec["request"])
    towers = "both" if len(request.towers) == 2 else request.towers[0]
    model = load_folder(folder, form="inference", dtype="float32", towers=towers)
    preprocessor = ImagePreprocessor.from_pretrained(folder) if "image" in request.towers else None
    image, text = model.image_encoder, model.text_encoder
    inputs = proof_inputs(get_variant(spec["variant"]), image and image.image_size, request)
    facts: Facts = {
        "embed_dim": (image or text).embed_dim,
        "image_size": image and image.image_size,
        "context_length": text and text.context_length,
        "logit_scale": logit_scale(model),
        "logit_bias": logit_bias(model),
        "parts": {},
        "float16": {},
    }
    between = {"image": _image_given(inputs), "tokens": {"tokens": inputs.fixed.tokens.astype(np.int32)}}
    for part in parts_of(model, request, preprocessor):
        path = out / f"{part.name}{request.how.suffix}"
        given = between["image"] if part.name == "image" else between["tokens"]
        kept = _write(part, request, path, given)
        if part.name == "text_lookup":
            between["tokens"] = _looked_up(path, request, given)
        if request.recipe == "fp16":
            facts["float16"][part.name] = kept
        _describe(request, path, spec["about"], part)
        facts["parts"][part.name] = _part_facts(part, request, path)
    if preprocessor is not None and inputs.pixels is not None:
        facts["distance_from_pillow"] = _distance(preprocessor, inputs)
    return facts


def _image_given(inputs: ProofInputs) -> dict[str, Any]:
    if inputs.pixels is None:
        return {"image": inputs.fixed.images}
    return {"pixels": list(inputs.pixels)}


def _write(part: Any, request: Request, path: Path, given: dict[str, Any]) -> Facts:
    """Writes a part's file. Returns, where it is rounded, the layers that stay float32 and the largest activation."""
    from .saved_model import save

    saved = path.with_name(f"{part.name}.saved")
    save(part, request.batches, saved)
    request.how.code.write(saved, path, request.batches)
    shutil.rmtree(saved, ignore_errors=True)
    if request.recipe != "fp16":
        return {}
    batch = (request.batches or (1,))[0]
    count = len(next(iter(given.values())))
    rows = [np.arange(start, start + batch) % count for start in range(0, count, batch)]
    batches = [{name: np.stack([array[i] for i in each]) for name, array in given.items()} for each in rows]
    largest = request.how.code.largest_activations(path, batches)
    kept = [name for name, value in largest.items() if not value <= HALF_LARGEST]
    float32 = path.with_name(f"float32-{path.name}")
    path.rename(float32)
    request.how.code.write_fp16(float32, path, kept)
    float32.unlink()
    from .lint import layer_of

    return {"largest_activation": max(largest.values(), default=0.0), "kept_in_float32": [layer_of(n) for n in kept]}


def _looked_up(path: Path, request: Request, given: dict[str, Any]) -> dict[str, Any]:
    from .proof import FREE_BATCH, _in_batches

    batch = (request.batches or (FREE_BATCH,))[0]
    return _in_batches(
        request.how.code.open_tower(path, (request.batches and batch) or None, request.how.ways[0]), given, batch
    )


def _describe(request: Request, path: Path, about: dict[str, str], part: Any) -> None:
    words = {"float32": "float32", "int32": "int32", "uint8": "uint8"}
    both = {"input": part.inputs, "output": part.outputs}
    lines = {
        f"{kind}.{name}": f"{words[dtype]} (batch, {', '.join('any' if n is None else str(n) for n in shape)})"
        for kind, tensors in both.items()
        for name, (shape, dtype) in tensors.items()
    }
    request.how.code.describe(path, {**about, "tower": part.name, **lines})


def _part_facts(part: Any, request: Request, path: Path) -> Facts:
    """A file, with its inputs and outputs."""
    from .lint import lint
    from .saved_model import signature_name

    found = {
        "file": path.name,
        "signatures": {signature_name(batch, request.batches): batch for batch in request.batches}
        or {"serving_default": "any"},
        "inputs": {name: _tensor(name, *each, part.name) for name, each in part.inputs.items()},
        "outputs": {name: _tensor(name, *each, part.name) for name, each in part.outputs.items()},
    }
    if request.runtime == "litert":
        found["not_for_gpu_delegates"] = [finding.to_json() for finding in lint(request.how.code.operations(path))]
    return found


MEANINGS = {
    "image": 'A picture, preprocessed as "images" says.',
    "pixels": "RGB from 0 to 255, upright, not resized.",
    "tokens": 'Ids as "texts" says.',
    "embeddings": "What text_lookup gives: each id's embedding, its position's added.",
    "end": "What text_lookup gives: 1 where the text ends, else 0.",
    "image_features": "The picture's features, of length 1.",
    "text_features": "The text's features, of length 1.",
}


def _tensor(name: str, shape: tuple[int | None, ...], dtype: str, part: str) -> Facts:
    return {"shape": ["batch", *("any" if n is None else n for n in shape)], "dtype": dtype, "meaning": MEANINGS[name]}


def _distance(preprocessor: Any, inputs: ProofInputs) -> Facts:
    """How far the graph's preprocessing is from Pillow's, before the normalisation by mean and std."""
    import keras

    assert inputs.pixels is not None
    layer, std = preprocessor.as_layer(), np.asarray(preprocessor.std, np.float32)
    made = np.concatenate([keras.ops.convert_to_numpy(layer(pixels[None])) for pixels in inputs.pixels])
    error = np.abs(made - inputs.fixed.images) * std
    return {"maximum": float(error.max()), "mean": float(error.mean()), "unit": "of values from 0 to 1"}


def reference(spec: Facts) -> Facts:
    """Writes PyTorch's features into an .npz file.

    Args:
        spec: "folder", "out" (the file), "request", "variant", "source" (a checkpoint, or None), "more", "image_size".
    """
    from ...verify.precision import full_float32
    from .reference import compute_truth, reference_of_checkpoint, reference_of_folder

    folder, request, variant = Path(spec["folder"]), request_from_json(spec["request"]), get_variant(spec["variant"])
    if spec["source"] is None:
        model = reference_of_folder(folder)
    else:
        model = reference_of_checkpoint(Path(spec["source"]), variant, spec["conversion"])
    inputs = proof_inputs(variant, spec["image_size"], request)
    with full_float32():
        compute_truth(model, inputs, request.towers, spec["more"]).save(Path(spec["out"]))
    return {}


JOBS = {"convert": convert, "reference": reference}
