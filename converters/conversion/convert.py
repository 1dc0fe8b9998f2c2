"""Converting a checkpoint into a folder that Keras loads, verified before it appears."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ...keras_models.architectures import FORMS
from ...keras_models.errors import MissingPackageError, MobileClipError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.models.copying import copy_model
from ...keras_models.models.model import MobileClipModel
from ...keras_models.registry import Variant
from ...keras_models.store.atomic import check_target, written_whole
from ...keras_models.store.file_names import CONVERSION_FILE, TRAIN_FOLDER
from ...keras_models.store.weights_file import save_model
from ...keras_models.towers.folding import fold_tower, reparameterize
from ...verify.verification import Verification
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint, sha256
from ..checkpoints.identify import CheckpointFormat, choose_variant, identify
from ..hub.records import weight_hashes, write_record
from .build import build_model, has_projection_bias
from .mapping import load_into
from .progress import Progress, silent
from .verifying import check_packages, verify_against, write_verification

FORM_CHOICES = ("both", "inference", "train")
DTYPE_CHOICES = ("float32", "float16", "bfloat16", "keep")


class VerificationError(MobileClipError):
    """A conversion does not compute what PyTorch computes; nothing was written."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did."""

    folder: Path
    variant: Variant
    format: CheckpointFormat
    forms: tuple[str, ...]
    dtype: str
    notes: tuple[str, ...]
    verification: Verification | None


def convert(
    source: str | Path,
    out: str | Path | None = None,
    *,
    variant: str | None = None,
    form: str = "both",
    dtype: str = "float32",
    verify: bool = True,
    force: bool = False,
    like_open_clip: bool = False,
    progress: Progress = silent,
    report: Callable[[Verification], None] = lambda _: None,
) -> Conversion:
    """Converts a checkpoint file.

    A checkpoint in train form is by default written in both forms: the inference form at the top of the
    folder, because people who load a model mostly run it and want it fast, and the train form below it,
    because fine-tuning needs the branches and batch norms and because only it converts back. One form alone
    halves the folder.

    Args:
        source: the checkpoint.
        out: the folder to write; None for <variant>-keras in the current one.
        variant: any spelling; None to detect it.
        form: "both", "inference" or "train".
        dtype: of the weights written: "float32", "float16", "bfloat16", or "keep" for the file's own. What is
            verified is float32, before it is rounded.
        verify: whether to compare with PyTorch first.
        force: whether to replace a converted folder that is there.
        like_open_clip: compute ViT-B/16 as open_clip does, not as it was trained. See
            keras_models/registry.py.
        progress: shows steps.
        report: called with the verification, passed or not.

    Raises:
        MobileClipError: saying what is wrong with the file, the name, the target or the result. Nothing is
            left behind.
    """
    source = Path(source)
    if form not in FORM_CHOICES or dtype not in DTYPE_CHOICES:
        raise MobileClipError(f"form is one of {', '.join(FORM_CHOICES)}, dtype one of {', '.join(DTYPE_CHOICES)}.")
    checkpoint = open_checkpoint(source)
    checkpoint_format = identify(checkpoint.shapes)
    found = choose_variant(checkpoint_format, variant, source)
    target = Path(out) if out is not None else Path(f"{found.name}-keras")
    check_target(target, force)
    forms = _forms(form, checkpoint_format)
    held = _held_dtype(checkpoint)
    dtype = _dtype_to_write(dtype, held)
    if verify:
        _check_packages()
    notes = [*checkpoint.notes, *_notes(checkpoint_format, held, dtype)]
    with progress(f"Reading {source.name}", checkpoint.bytes) as advance:
        digest = sha256(checkpoint.files, advance)

    bias = has_projection_bias(found, checkpoint_format, checkpoint)
    # float32 unless the file is finer and is to stay so: what is smaller is rounded when it is written.
    # In a list, for `_folded` to take out: two whole models at once would be too much memory.
    models = [
        build_model(found, checkpoint_format, bias, "float64" if dtype == "float64" else "float32", like_open_clip)
    ]
    with progress(f"Mapping {len(checkpoint_format.rows)} tensors", len(checkpoint_format.rows)) as advance:
        load_into(models[0], checkpoint, checkpoint_format.rows, advance)
    verification = None
    if verify:
        verification = _verify(checkpoint, checkpoint_format, found, models[0], forms, progress, like_open_clip)
        report(verification)
        if not verification.passed:
            raise VerificationError(f"{source.name} was not converted: the result is not equal to PyTorch.")
    # Memory that the file is mapped to makes room for the folded model.
    checkpoint.close()

    with written_whole(target, force) as folder:
        for name in sorted(forms, key=FORMS.index):
            with progress(f"Writing the {name} form"):
                if name != models[0].form:
                    models.append(_folded(models, name))
                _write_form(models[0], folder if name == forms[0] else folder / TRAIN_FOLDER, dtype)
        conversion = {
            "variant": found.name,
            "source": {
                "file": source.name,
                "sha256": digest,
                "layout": checkpoint_format.layout,
                "form": checkpoint_format.form,
                "dtype": held,
            },
            "weights_sha256": weight_hashes(folder),
            "dtype": dtype,
            "notes": notes,
            "computes_like": "open_clip" if like_open_clip else "training",
            "versions": {"mobileclip-keras": _own_version(), "keras": keras.__version__},
        }
        write_record(folder, CONVERSION_FILE, conversion)
        ImagePreprocessor.from_variant(found.name).save_pretrained(folder)
        if checkpoint_format.text_tower is not None:
            Tokenizer().save_pretrained(folder)
        write_verification(folder, verification)
    return Conversion(target, found, checkpoint_format, forms, dtype, tuple(notes), verification)


def _forms(form: str, checkpoint_format: CheckpointFormat) -> tuple[str, ...]:
    """The forms to write, the default one of the folder first."""
    if checkpoint_format.form == "train":
        return ("inference", "train") if form == "both" else (form,)
    if form == "train":
        raise MobileClipError(
            "This checkpoint was reparameterised: its branches are gone, so there is no train form to write. "
            "Use --form inference."
        )
    return ("inference",)


def _held_dtype(checkpoint: Checkpoint) -> str:
    """The dtype of most floating-point tensors in the file."""
    floats = [dtype for dtype in checkpoint.dtypes.values() if "float" in dtype]
    return max(set(floats), key=floats.count, default="float32")


def _dtype_to_write(asked: str, held: str) -> str:
    dtype = held if asked == "keep" else asked
    if dtype not in (*DTYPE_CHOICES, "float64"):
        raise MobileClipError(f"The weights are {dtype}, which cannot be kept. Choose another --dtype.")
    return dtype


def _check_packages() -> None:
    try:
        check_packages()
    except MissingPackageError as error:
        raise MissingPackageError(f"{error}. To convert without comparing, use --no-verify.") from error


def _notes(checkpoint_format: CheckpointFormat, held: str, dtype: str) -> list[str]:
    notes = []
    if held != dtype:
        notes.append(f"weights are {held} in the file and {dtype} in the folder")
    if checkpoint_format.text_tower is None:
        notes.append("the timm layout holds the image tower alone: there is no text tower")
    if checkpoint_format.form != "train":
        notes.append("the checkpoint was reparameterised already: only the inference form can be made")
    return notes


def _verify(
    checkpoint: Checkpoint,
    checkpoint_format: CheckpointFormat,
    variant: Variant,
    model: MobileClipModel,
    forms: tuple[str, ...],
    progress: Progress,
    like_open_clip: bool,
) -> Verification:
    def make_model(form: str, dtype: str) -> MobileClipModel:
        # Folded straight into the dtype wanted: a float64 copy of the train form would be one too many.
        same = (form, dtype) == (model.form, model.dtype)
        return model if same else reparameterize(model, form, dtype)

    return verify_against(checkpoint, checkpoint_format, variant, make_model, forms, progress, like_open_clip)


def _folded(models: list[MobileClipModel], form: str) -> MobileClipModel:
    """The model taken out of a list, folded; each tower is let go of before the next is folded."""
    model = models.pop()
    scale, variant = keras.ops.convert_to_numpy(model.logit_scale), model.variant
    towers = [model.image_encoder, model.text_encoder]
    del model
    folded: list[Any] = []
    while towers:
        tower = towers.pop(0)
        folded.append(None if tower is None else fold_tower(tower, form))
        del tower
        gc.collect()  # layers refer to each other in circles
    image, text = folded
    new = MobileClipModel(image, text, variant, dtype=image.dtype_policy)
    new.logit_scale.assign(scale)
    return new


def _write_form(model: MobileClipModel, place: Path, dtype: str) -> None:
    """Saves a model as Keras' own unzipped layout."""
    if dtype != model.dtype:
        model = _rounded(model, dtype)
    save_model(model, place)


def _rounded(model: MobileClipModel, dtype: str) -> MobileClipModel:
    """A copy in half precision."""
    rounded = copy_model(model, dtype)
    for variable in rounded.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable).astype(np.float32)).all():
            raise MobileClipError(f"{variable.path} holds numbers too large for {dtype}. Use --dtype float32.")
    return rounded


def _own_version() -> str:
    try:
        return version("mobileclip-keras")
    except PackageNotFoundError:
        return "unknown"
