"""What export does in processes of its own: converting, and computing with PyTorch."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.registry import get_variant
from .contents.bundle import request_from_json
from .half import round_to_half, split, store_rounded
from .own_memory import give_back
from .proofs.inputs import ProofInputs, proof_inputs
from .proofs.proof import FREE_BATCH, in_batches
from .request import Request

if TYPE_CHECKING:
    from ...verify.torch_models import TorchReference
    from .runtimes.parts import Part

Facts = dict[str, Any]


def convert(spec: Facts) -> Facts:
    """Writes the files of the towers, by TensorFlow.

    Args:
        spec: "folder" that was converted, "request", "variant", "about", which each file says, and "candidates". Of
            each of these it writes the files: "recipe", "out", the folder to write to, "weights", the file of rounded
            ones, or None, and "floats", as `store_rounded` takes it.

    Returns:
        What bundle.json says of files and model, for each candidate.
    """
    from ...keras_models.inputs.preprocessing import ImagePreprocessor
    from ...keras_models.models.features import logit_bias, logit_scale
    from .quantize.changing import changed_model
    from .runtimes.parts import parts_of

    folder, request = Path(spec["folder"]), request_from_json(spec["request"])
    model = _model(folder, request)
    preprocessor = ImagePreprocessor.from_pretrained(folder) if "image" in request.towers else None
    image, text = model.image_encoder, model.text_encoder
    inputs = proof_inputs(get_variant(spec["variant"]), image and image.image_size, request)
    common: Facts = {
        "embed_dim": (image or text).embed_dim,
        "context_length": text and text.context_length,
        "logit_scale": logit_scale(model),
        "logit_bias": logit_bias(model),
    }
    if preprocessor is not None and inputs.pixels is not None:
        common["distance_from_pillow"] = _distance(preprocessor, inputs)
    parts = parts_of(model, request, preprocessor)
    found = []
    for candidate in spec["candidates"]:
        with changed_model(model, candidate["weights"]):
            found.append({**common, **_write_all(parts, candidate, request, inputs, spec["about"])})
    return {"candidates": found}


def _model(folder: Path, request: Request) -> Any:
    """The inference form of a folder, with the towers that are asked for."""
    from ...keras_models.models.model import MobileClipModel

    towers = "both" if len(request.towers) == 2 else request.towers[0]
    return MobileClipModel.from_pretrained(folder, form="inference", dtype="float32", towers=towers)


def _write_all(
    parts: list["Part"], candidate: Facts, request: Request, inputs: ProofInputs, about: dict[str, str]
) -> Facts:
    """A file for each part, stored by the candidate's recipe."""
    from .contents.part_facts import metadata, part_facts

    out, recipe = Path(candidate["out"]), candidate["recipe"]
    facts: Facts = {"parts": {}, "float16": {}}
    images = {"image": inputs.fixed.images} if inputs.pixels is None else {"pixels": inputs.pixels}
    texts = {"tokens": inputs.fixed.tokens.astype(np.int32)}
    for part in parts:
        path = out / f"{part.name}{request.how.suffix}"
        write_part(part, request, path)
        if recipe == "fp16":
            batches = split(images if part.name == "image" else texts, (request.batches or (1,))[0])
            facts["float16"][part.name] = round_to_half(request.how, path, batches)
        elif recipe != "float32":
            store_rounded(request.how, path, candidate["floats"])
        if part.name == "text_lookup":
            texts = _looked_up(path, request, texts)
        request.how.code.describe(path, {**about, "recipe": recipe, "tower": part.name, **metadata(part)})
        facts["parts"][part.name] = part_facts(part, request, path)
    return facts


def write_part(part: "Part", request: Request, path: Path) -> None:
    """A part's file, by way of a SavedModel, which every converter reads."""
    from .runtimes.saved_model import save, save_without_weights

    saved = path.with_name(f"{part.name}.saved")
    (save_without_weights if request.how.weights_apart else save)(part, request.batches, saved, request.how.formulation)
    request.how.code.write(saved, path, request.batches)
    shutil.rmtree(saved, ignore_errors=True)
    give_back()  # a traced program refers to itself in circles


def round_weights(spec: Facts) -> Facts:
    """Decides what each weight becomes, and writes the rounded ones.

    Args:
        spec: "folder", "out" (a folder), "request", and "rows", the file of inputs.
    """
    from .quantize import round_job
    from .quantize.calibration import load_rows

    request = request_from_json(spec["request"])
    model = _model(Path(spec["folder"]), request)
    return round_job.round_weights(model, request, load_rows(Path(spec["rows"])), Path(spec["out"]))


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

    def build() -> "TorchReference":
        if spec["source"] is None:
            return reference_of_folder(folder)
        return reference_of_checkpoint(Path(spec["source"]), variant, spec["conversion"])

    inputs = proof_inputs(variant, spec["image_size"], request)
    with full_float32():
        compute_truth(build, inputs, request.towers, spec["more"]).save(Path(spec["out"]))
    return {}


JOBS = {"convert": convert, "reference": reference, "round": round_weights}
