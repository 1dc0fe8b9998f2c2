"""What export does in processes of its own: converting, and computing with PyTorch."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.registry import get_variant
from .contents.bundle import request_from_json
from .half import round_to_half, split
from .proofs.inputs import ProofInputs, proof_inputs
from .proofs.proof import FREE_BATCH, in_batches
from .request import Request

if TYPE_CHECKING:
    from .runtimes.parts import Part

Facts = dict[str, Any]


def convert(spec: Facts) -> Facts:
    """Writes the files of the towers, by TensorFlow.

    Args:
        spec: "folder" that was converted, "out" to write to, "request", "variant", and "about", which each file says.

    Returns:
        What bundle.json says of files and model.
    """
    from ...keras_models.inputs.preprocessing import ImagePreprocessor
    from ...keras_models.models.features import logit_bias, logit_scale
    from ...keras_models.models.model import MobileClipModel
    from .contents.part_facts import metadata, part_facts
    from .runtimes.parts import parts_of

    folder, out, request = Path(spec["folder"]), Path(spec["out"]), request_from_json(spec["request"])
    towers = "both" if len(request.towers) == 2 else request.towers[0]
    model = MobileClipModel.from_pretrained(folder, form="inference", dtype="float32", towers=towers)
    preprocessor = ImagePreprocessor.from_pretrained(folder) if "image" in request.towers else None
    image, text = model.image_encoder, model.text_encoder
    inputs = proof_inputs(get_variant(spec["variant"]), image and image.image_size, request)
    facts: Facts = {
        "embed_dim": (image or text).embed_dim,
        "context_length": text and text.context_length,
        "logit_scale": logit_scale(model),
        "logit_bias": logit_bias(model),
        "parts": {},
        "float16": {},
    }
    images = {"image": inputs.fixed.images} if inputs.pixels is None else {"pixels": inputs.pixels}
    texts = {"tokens": inputs.fixed.tokens.astype(np.int32)}
    for part in parts_of(model, request, preprocessor):
        path = out / f"{part.name}{request.how.suffix}"
        _write(part, request, path)
        if request.recipe == "fp16":
            batches = split(images if part.name == "image" else texts, (request.batches or (1,))[0])
            facts["float16"][part.name] = round_to_half(request.how, path, batches)
        if part.name == "text_lookup":
            texts = _looked_up(path, request, texts)
        request.how.code.describe(path, {**spec["about"], "tower": part.name, **metadata(part)})
        facts["parts"][part.name] = part_facts(part, request, path)
    if preprocessor is not None and inputs.pixels is not None:
        facts["distance_from_pillow"] = _distance(preprocessor, inputs)
    return facts


def _write(part: "Part", request: Request, path: Path) -> None:
    """A part's file, by way of a SavedModel, which every converter reads."""
    from .runtimes.saved_model import save

    saved = path.with_name(f"{part.name}.saved")
    save(part, request.batches, saved)
    request.how.code.write(saved, path, request.batches)
    shutil.rmtree(saved, ignore_errors=True)


def _looked_up(path: Path, request: Request, tokens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the file of the look-up gives, which the rest of the text tower takes."""
    batch = request.batches[0] if request.batches else None
    return in_batches(request.how.code.open_tower(path, batch, request.how.ways[0]), tokens, batch or FREE_BATCH)


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
        spec: "folder", "out" (the file), "request", "variant", "source" (a checkpoint, or None), "conversion" (the
            folder's record), "more", "image_size".
    """
    from ...verify.precision import full_float32
    from .proofs.reference import compute_truth, reference_of_checkpoint, reference_of_folder

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
