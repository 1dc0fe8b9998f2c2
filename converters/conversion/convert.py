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
from ...keras_models.store.file_names import CONVERSION_FILE, TRAIN_FOLDER
from ...keras_models.store.variables import logit_variables
from ...keras_models.store.weights_file import save_model
from ...keras_models.store.writing.atomic import written_whole
from ...keras_models.towers.folding import fold_tower, reparameterize
from ...verify.verification import Verification
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint, sha256
from ..checkpoints.identify import CheckpointFormat
from ..hub.record_fields import FINE_TUNED
from ..hub.records import weight_hashes, write_record
from .build import build_model, has_projection_bias
from .mapping import load_into
from .plan import Plan, check_choices, make_plan
from .progress import Progress, silent
from .verifying import check_packages, verify_against, write_verification


class VerificationError(MobileClipError):
    """A conversion does not compute what PyTorch computes; nothing was written."""


@dataclass(frozen=True)
class Tuned:
    """That a checkpoint holds weights which this package fine-tuned.

    Attributes:
        record: what conversion.json says of that.
        write: writes what goes beside the weights into the folder.
    """

    record: dict[str, Any]
    write: Callable[[Path], None]


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
    weights: str | None = None,
    ignore_extra: bool = False,
    tuned: Tuned | None = None,
    progress: Progress = silent,
    report: Callable[[Verification], None] = lambda _: None,
) -> Conversion:
    """Converts a checkpoint file.

    A checkpoint in train form is by default written in both forms. The inference form lies at the top of the folder:
    it is fast, and most people only run a model. The train form lies below it: fine-tuning needs its branches and
    batch norms, and only it converts back. One form alone halves the folder.

    Args:
        source: the checkpoint.
        out: the folder to write; None for <variant>-keras in the current one.
        variant: any spelling; None to detect it.
        form: "both", "inference" or "train".
        dtype: of the weights written: "float32", "float16", "bfloat16", or "keep" for the file's own. Half
            precision is rounded after the verification, which compares float32.
        verify: whether to compare with PyTorch first.
        force: whether to replace a converted folder that is there.
        like_open_clip: compute ViT-B/16 as open_clip does, not as it was trained. See
            keras_models/registry.py.
        weights: which weights, where the file holds several sets; see `open_checkpoint`.
        ignore_extra: whether tensors beside the model are left out; see `open_checkpoint`.
        tuned: of a checkpoint that was fine-tuned here; None for any other.
        progress: shows steps.
        report: called with the verification, passed or not.

    Raises:
        MobileClipError: saying what is wrong with the file, the name, the target or the result. Nothing is
            left behind.
    """
    source = Path(source)
    check_choices(form, dtype)
    checkpoint = open_checkpoint(source, weights, ignore_extra)
    plan = make_plan(
        source,
        checkpoint,
        None if out is None else Path(out),
        variant=variant,
        form=form,
        dtype=dtype,
        force=force,
        like_open_clip=like_open_clip,
    )
    if verify:
        _check_packages()
    with progress(f"Reading {source.name}", checkpoint.bytes) as advance:
        digest = sha256(checkpoint.files, advance)

    # In a list, so that `_folded` can take the model out: two whole models at once would need too much memory.
    models = [_load(plan, checkpoint, progress)]
    verification = None
    if verify:
        verification = _verify(plan, checkpoint, models[0], progress)
        report(verification)
        if not verification.passed:
            raise VerificationError(f"{source.name} was not converted: the result is not equal to PyTorch.")
    # This frees the memory that the file is mapped to, before the model is folded.
    checkpoint.close()

    with written_whole(plan.target, force) as folder:
        _write_forms(plan, models, folder, progress)
        _write_records(plan, folder, source.name, checkpoint, digest, verification, tuned)
    return Conversion(plan.target, plan.variant, plan.format, plan.forms, plan.dtype, plan.notes, verification)


def _check_packages() -> None:
    try:
        check_packages()
    except MissingPackageError as error:
        raise MissingPackageError(f"{error}. To convert without comparing, use --no-verify.") from error


def _load(plan: Plan, checkpoint: Checkpoint, progress: Progress) -> MobileClipModel:
    """The model in the checkpoint's form, with its weights."""
    rows = plan.format.rows
    bias = has_projection_bias(plan.variant, plan.format, checkpoint)
    model = build_model(plan.variant, plan.format, bias, plan.computing_dtype, plan.like_open_clip)
    with progress(f"Mapping {len(rows)} tensors", len(rows)) as advance:
        load_into(model, checkpoint, rows, advance)
    return model


def _verify(plan: Plan, checkpoint: Checkpoint, model: MobileClipModel, progress: Progress) -> Verification:
    def make_model(form: str, dtype: str) -> MobileClipModel:
        # Folded straight into the dtype asked for. A float64 copy of the train form first would cost its memory.
        same = (form, dtype) == (model.form, model.dtype)
        return model if same else reparameterize(model, form, dtype)

    return verify_against(checkpoint, plan.format, plan.variant, make_model, plan.forms, progress, plan.like_open_clip)


def _write_forms(plan: Plan, models: list[MobileClipModel], folder: Path, progress: Progress) -> None:
    """Writes each form in its place: the train form first, as the inference form is folded from it.

    Args:
        plan: of the conversion.
        models: the loaded model alone. At the end, the last form written is in its place.
        folder: to write into.
        progress: shows steps.
    """
    for name in sorted(plan.forms, key=FORMS.index):
        with progress(f"Writing the {name} form"):
            if name != models[0].form:
                models.append(_folded(models, name))
            _write_form(models[0], folder if name == plan.forms[0] else folder / TRAIN_FOLDER, plan.dtype)


def _folded(models: list[MobileClipModel], form: str) -> MobileClipModel:
    """Takes the model out of a list of one, and folds it. Each tower's memory is freed before the next is folded."""
    model = models.pop()
    scalars = {name: keras.ops.convert_to_numpy(v) for name, v in logit_variables(model).items()}
    variant = model.variant
    towers = [model.image_encoder, model.text_encoder]
    del model
    folded: list[Any] = []
    while towers:
        tower = towers.pop(0)
        folded.append(None if tower is None else fold_tower(tower, form))
        del tower
        gc.collect()  # layers refer to each other in circles, so only the collector frees them
    image, text = folded
    policy = (text if image is None else image).dtype_policy
    new = MobileClipModel(image, text, variant, logit_bias="logit_bias" in scalars, dtype=policy)
    for name, variable in logit_variables(new).items():
        variable.assign(scalars[name])
    return new


def _write_form(model: MobileClipModel, place: Path, dtype: str) -> None:
    """Saves a model in Keras' own unzipped layout."""
    if dtype != model.dtype:
        model = _rounded(model, dtype)
    save_model(model, place)


def _rounded(model: MobileClipModel, dtype: str) -> MobileClipModel:
    """A copy in another dtype, checked for numbers that do not fit."""
    rounded = copy_model(model, dtype)
    for variable in rounded.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable).astype(np.float32)).all():
            raise MobileClipError(f"{variable.path} holds numbers too large for {dtype}. Use --dtype float32.")
    return rounded


def _write_records(
    plan: Plan,
    folder: Path,
    source_name: str,
    checkpoint: Checkpoint,
    digest: str,
    verification: Verification | None,
    tuned: Tuned | None,
) -> None:
    """Writes what goes beside the weights: records, settings of preprocessing, tokenizer, model card."""
    conversion = {
        "variant": plan.variant.name,
        "towers": plan.format.towers,
        "source": {
            "file": source_name,
            "sha256": digest,
            "layout": plan.format.layout,
            "form": plan.format.form,
            "dtype": plan.source_dtype,
            **_choices(checkpoint),
            **_options(plan.format),
        },
        "weights_sha256": weight_hashes(folder),
        "dtype": plan.dtype,
        "notes": list(plan.notes),
        "computes_like": "open_clip" if plan.like_open_clip else "training",
        "versions": {"mobileclip-keras": own_version(), "keras": keras.__version__},
        **({} if tuned is None else {FINE_TUNED: tuned.record}),
    }
    write_record(folder, CONVERSION_FILE, conversion)
    if plan.format.image_tower is not None:
        preprocess = ImagePreprocessor.from_variant(plan.variant.name)
        preprocess.image_size = plan.format.image_size or preprocess.image_size
        preprocess.save_pretrained(folder)
    if plan.format.text_tower is not None:
        Tokenizer().save_pretrained(folder)
    if tuned is not None:
        tuned.write(folder)
    write_verification(folder, verification)


def _options(checkpoint_format: CheckpointFormat) -> dict[str, Any]:
    """What differs from the published checkpoints of the variant."""
    size = {} if checkpoint_format.image_size is None else {"image_size": checkpoint_format.image_size}
    return {**size, **({"logit_bias": True} if checkpoint_format.logit_bias else {})}


def _choices(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the user chose of the file. To verify the folder again, the same is chosen."""
    chosen: dict[str, Any] = {}
    if checkpoint.weights is not None:
        chosen["weights"] = checkpoint.weights
    if checkpoint.left:
        chosen["left"] = list(checkpoint.left)
    return chosen


def own_version() -> str:
    """Of this package."""
    try:
        return version("mobileclip-keras")
    except PackageNotFoundError:
        return "unknown"
