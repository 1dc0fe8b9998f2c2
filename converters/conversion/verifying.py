"""Verifying a conversion: PyTorch gets the checkpoint, Keras each form in each dtype."""

from importlib.util import find_spec
from pathlib import Path
from typing import cast

import keras
import numpy as np

from ...keras_models.errors import MissingPackageError, MobileClipError
from ...keras_models.models.model import MobileClipModel
from ...keras_models.registry import OPEN_CLIP_CONVENTIONS, Variant
from ...keras_models.store.file_names import CONVERSION_FILE
from ...keras_models.store.folder import form_folders
from ...keras_models.store.load import load_folder
from ...keras_models.store.variables import variables_by_name
from ...keras_models.store.writing.own_files import sha256_of_written
from ...keras_models.store.writing.rewriting import check_rewritable, rewritten
from ...keras_models.towers.folding import reparameterize
from ...verify.compare import Features
from ...verify.data.inputs import fixed_inputs
from ...verify.picture import draw
from ...verify.running.keras_side import MakeModel
from ...verify.torch_models import Layout, TorchReference, build_reference
from ...verify.torch_models.requirements import require_packages
from ...verify.verification import Verification, steps, verify_model
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.identify import CheckpointFormat, choose_variant, identify
from ..hub.contents import file_hashes
from ..hub.model_card import CARD_FILE, LICENSE_FILE
from ..hub.records import (
    PICTURE_FILE,
    VERIFICATION_FILE,
    read_record,
    write_card,
    write_license,
    write_record,
)
from .build import build_model, has_projection_bias
from .mapping import load_into
from .progress import Progress

VERIFICATION_FILES = (VERIFICATION_FILE, PICTURE_FILE, CARD_FILE, LICENSE_FILE)
"""What a verification writes into a converted folder."""


def check_packages() -> None:
    """Checks, before any work, that everything that a comparison needs is installed.

    Raises:
        MissingPackageError: where PyTorch, timm, open_clip or matplotlib is not installed.
    """
    require_packages()
    if find_spec("matplotlib") is None:
        raise MissingPackageError(
            "Drawing the comparison needs matplotlib, not installed here. "
            'Install with: pip install "mobileclip-keras[verify]"'
        )


def verify_against(
    checkpoint: Checkpoint,
    checkpoint_format: CheckpointFormat,
    variant: Variant,
    make_model: MakeModel,
    forms: tuple[str, ...],
    progress: Progress,
    like_open_clip: bool = False,
    thorough: bool = False,
) -> Verification:
    """Verifies Keras models against the checkpoint that they come from.

    Args:
        checkpoint: opened.
        checkpoint_format: what it is.
        variant: the variant it is taken for.
        make_model: gives the model in a form and a dtype.
        forms: the forms to verify.
        progress: shows steps.
        like_open_clip: whether the models compute as open_clip does, not as they were trained.
        thorough: as for `verify_model`.

    Raises:
        MissingPackageError: where PyTorch, timm or open_clip is not installed.
    """
    inputs = fixed_inputs(variant, checkpoint_format.image_size)
    with progress("Comparing with PyTorch", steps(forms)) as advance:
        reference = reference_of(variant, checkpoint_format, checkpoint, like_open_clip)
        verification = verify_model(
            variant.name, make_model, forms, reference, inputs, lambda step: advance(1, step), thorough
        )
        if checkpoint_format.image_tower == "vit_b16" and _conventions(variant, True) != _conventions(variant, False):
            advance(1, "PyTorch in float64, the other convention")
            other = reference_of(variant, checkpoint_format, checkpoint, not like_open_clip)
            logits = Features(other.encode_image(inputs.images), verification.features.text).logits()
            distance = float(abs(logits - verification.logits["torch"]).max())
            verification.convention = _describe(variant, like_open_clip, distance)
    return verification


def verify_folder(folder: Path, source: Path, progress: Progress, thorough: bool = False) -> Verification:
    """Verifies a converted folder against a checkpoint file, and writes the outcome into the folder.

    `thorough` is as for `verify_model`.

    Raises:
        MobileClipError: where the folder or the file cannot be read, or they are of different variants.
    """
    check_packages()
    conversion = read_record(folder, CONVERSION_FILE)
    check_rewritable(folder, VERIFICATION_FILES)
    if conversion["dtype"] != "float32":
        raise MobileClipError(
            f"{folder} holds {conversion['dtype']} weights, which are rounded on purpose. Verify the "
            "conversion to float32 instead."
        )
    origin = conversion["source"]
    checkpoint = open_checkpoint(source, origin.get("weights"), bool(origin.get("left")))
    checkpoint_format = identify(checkpoint.shapes, checkpoint.named)
    variant = choose_variant(checkpoint_format, conversion["variant"], source, checkpoint.causal)
    forms = tuple(form_folders(folder))
    like_open_clip = conversion["computes_like"] == "open_clip"

    def make_model(form: str, dtype: str) -> MobileClipModel:
        # Stored weights are float32. For the float64 check, fold the checkpoint again and confirm that it rounds to
        # the stored weights. If it does not, check the stored weights themselves.
        if form != checkpoint_format.form and dtype == "float64":
            trained = _trained(checkpoint, checkpoint_format, variant, like_open_clip)
            if _is_same(reparameterize(trained, form, "float32"), load_folder(folder, form=form)):
                return reparameterize(trained, form, "float64")
        return load_folder(folder, form=form, dtype=dtype)

    verification = verify_against(
        checkpoint, checkpoint_format, variant, make_model, forms, progress, like_open_clip, thorough
    )
    with rewritten(folder, VERIFICATION_FILES) as anew:
        write_verification(anew, verification)
    return verification


def _trained(
    checkpoint: Checkpoint, checkpoint_format: CheckpointFormat, variant: Variant, like_open_clip: bool
) -> MobileClipModel:
    """The model of a checkpoint, in its form and in float32."""
    bias = has_projection_bias(variant, checkpoint_format, checkpoint)
    model = build_model(variant, checkpoint_format, bias, "float32", like_open_clip)
    load_into(model, checkpoint, checkpoint_format.rows)
    return model


def _is_same(folded: MobileClipModel, stored: MobileClipModel) -> bool:
    """Whether two float32 models have the same numbers, apart from the last bit of each.

    Another machine may add numbers in another order, which changes the last bit of a sum. Where large numbers cancel,
    it changes more bits; so 1e-12 of the tensor's largest number is allowed too. In a depthwise kernel, the smallest
    tap makes up for the rounding of the others; so each tap may differ by the last bit of the channel's largest.
    """
    folded_by_name, stored_by_name = variables_by_name(folded), variables_by_name(stored)
    if folded_by_name.keys() != stored_by_name.keys():
        return False
    for name, variable in folded_by_name.items():
        mine, theirs = (keras.ops.convert_to_numpy(v) for v in (variable, stored_by_name[name]))
        if theirs.dtype != np.float32 or mine.shape != theirs.shape:
            return False
        sizes = np.abs(theirs)
        largest = sizes.max(axis=(0, 1), keepdims=True) if theirs.ndim == 4 else sizes
        tolerance = np.spacing(largest).astype(np.float64) + 1e-12 * sizes.max()
        if not (np.abs(theirs.astype(np.float64) - mine) <= tolerance).all():
            return False
    return True


def write_verification(folder: Path, verification: Verification | None) -> None:
    """Writes the record, the picture and the model card that belongs to them; None for "not verified"."""
    record = {"passed": False, "why": "not verified: converted with --no-verify"}
    if verification is not None:
        record = verification.to_json()
        draw(verification, folder / PICTURE_FILE)
    write_license(folder)
    # Last of all: it says what every other file was.
    write_record(folder, VERIFICATION_FILE, {**record, "files_sha256": file_hashes(folder, sha256_of_written)})
    write_card(folder)


def reference_of(
    variant: Variant, checkpoint_format: CheckpointFormat, checkpoint: Checkpoint, like_open_clip: bool
) -> TorchReference:
    """The PyTorch model of a checkpoint, in float64.

    Arguments are those of `verify_against`.
    """
    conventions = _conventions(variant, like_open_clip) if checkpoint_format.image_tower == "vit_b16" else {}
    return build_reference(
        checkpoint_format.image_tower,
        variant.text_tower if checkpoint_format.text_tower else None,
        {name: checkpoint.read(name) for name in checkpoint.shapes},
        cast(Layout, checkpoint_format.layout),
        image_norm_epsilon=conventions.get("norm_epsilon"),
        image_stem_padding=conventions.get("stem_padding"),
        image_size=checkpoint_format.image_size,
    )


def _conventions(variant: Variant, like_open_clip: bool) -> dict:
    """How ViT-B/16 computes."""
    trained = {"norm_epsilon": variant.image_norm_epsilon, "stem_padding": variant.image_stem_padding}
    return OPEN_CLIP_CONVENTIONS if like_open_clip else trained


def _describe(variant: Variant, like_open_clip: bool, distance: float) -> str:
    """The other way of computing, and how far it is."""
    mine, other = _conventions(variant, like_open_clip), _conventions(variant, not like_open_clip)
    whose = "as it was trained" if like_open_clip else "as open_clip computes it"
    return (
        f"{variant.name} {whose} (LayerNorm epsilon {other['norm_epsilon']:g}, stem padding "
        f"{other['stem_padding']}) gives logits up to {distance:.2g} from these (epsilon "
        f"{mine['norm_epsilon']:g}, padding {mine['stem_padding']})."
    )
