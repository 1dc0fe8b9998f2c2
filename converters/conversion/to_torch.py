"""Back to PyTorch: a Keras model as a checkpoint in Apple's, open_clip's or timm's layout."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from ...keras_models.architectures import IMAGE_TOWERS
from ...keras_models.errors import MissingPackageError, MobileClipError
from ...keras_models.layers.adapters import is_quantized
from ...keras_models.layers.paths import layers_by_path
from ...keras_models.models.copying import adapted_layers, merged_copy
from ...keras_models.models.model import INITIAL_LOGIT_SCALE, MobileClipModel
from ...keras_models.store.foreign.keras_archive import load_archive
from ...keras_models.store.load import load_folder
from ...keras_models.store.writing.atomic import file_written_whole
from ...keras_models.store.writing.targets import check_file_target
from ...weight_maps.table import LAYOUTS, Row, model_rows
from ..checkpoints.formats.torch_file import TORCH_SUFFIXES
from ..checkpoints.identify import CheckpointFormat
from .mapping import read_from


class ExportError(MobileClipError):
    """A model cannot be written in the layout asked for; the message says why."""


def to_torch(
    source: MobileClipModel | str | Path,
    layout: str,
    out: str | Path,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes the train form of a model as a PyTorch checkpoint.

    Every tensor of an unchanged model equals that of the checkpoint that it was converted from, bit for bit.

    Args:
        source: a model in train form, a converted folder that holds it, or a .keras file.
        layout: "apple", "open_clip" or "timm" (the image tower alone).
        out: a .safetensors file (PyTorch is not needed), or .pt, .pth or .bin.
        force: whether to replace a file that is there.
        progress: called with 1 for each tensor.

    Returns:
        The number of tensors written.

    Raises:
        ExportError: where the layout has no place for the model, or the model has been folded.
        OutputError: where the file cannot be written. Nothing is left behind.
    """
    out = Path(out)
    _check_out(out, force)
    if layout not in LAYOUTS:
        raise ExportError(f"{layout!r} is no layout. The layouts are {', '.join(LAYOUTS)}.")
    model = source if isinstance(source, MobileClipModel) else _load_train_form(Path(source), layout)
    tensors = read_from(*_model_and_rows(model, layout), progress)
    _write(tensors, out, force)
    return len(tensors)


def torch_tensors(model: MobileClipModel) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a model in train form by their names in PyTorch, and the layout that has a place for it.

    Raises:
        ExportError: where no layout has, or the model has been folded.
    """
    layout = layout_of(model)
    return read_from(*_model_and_rows(model, layout), lambda _: None), layout


def layout_of(model: MobileClipModel) -> str:
    """The layout that has a place for a model in train form: open_clip's where that has.

    Raises:
        ExportError: where none has, or the model has been folded.
    """
    image, text = (tower and tower.tower for tower in (model.image_encoder, model.text_encoder))
    layout = next((name for name in ("open_clip", "apple") if _exists(image, text, name)), "open_clip")
    _model_and_rows(model, layout)
    return layout


def _load_train_form(source: Path, layout: str) -> MobileClipModel:
    if source.suffix == ".keras":
        try:
            return load_archive(source)
        except MobileClipError as error:
            raise ExportError(str(error)) from error
    return load_folder(source, form="train", towers="image" if layout == "timm" else None)


def _model_and_rows(model: MobileClipModel, layout: str) -> tuple[MobileClipModel, tuple[Row, ...]]:
    """The part of a model that a layout holds, and the layout's table."""
    if any(is_quantized(layer) for _, layer in layers_by_path(model)):
        raise ExportError("The model is quantised, and PyTorch's layouts hold floats. Give it as it was before.")
    if model.form != "train":
        raise ExportError(
            f"The model is in {model.form} form: what was folded cannot be unfolded. Give the train form."
        )
    image, text = model.image_encoder, model.text_encoder
    if image is not None and image.tower not in IMAGE_TOWERS:
        raise ExportError("The image tower is not one of MobileCLIP's, and no layout has a place for it.")
    if image is None and layout == "timm":
        raise ExportError("The model has no image tower, which is all that the timm layout holds.")
    if layout == "timm" and text is not None:
        model, text = MobileClipModel(image, variant=model.variant), None
    towers = (image and image.tower, text and text.tower)
    try:
        rows = _format(model, *towers, layout).rows
    except LookupError as error:
        others = [name for name in LAYOUTS if name != layout and _exists(*towers, name)]
        raise ExportError(f"{error.args[0]} Use {' or '.join(others)}.") from error
    return merged_copy(model) if adapted_layers(model) else model, rows


def _format(model: MobileClipModel, image_tower: str | None, text_tower: str | None, layout: str) -> CheckpointFormat:
    """What the file will be. One tower alone has a logit scale where it is no longer the initial one."""
    initial = keras.ops.cast(INITIAL_LOGIT_SCALE, model.logit_scale.dtype)
    is_set = bool(keras.ops.convert_to_numpy(model.logit_scale != initial))
    alone = image_tower is None or text_tower is None
    return CheckpointFormat(
        image_tower,
        text_tower,
        layout,
        "train",
        image_size=None if image_tower is None else model.image_encoder.position_size,
        logit_bias=model.logit_bias is not None and layout != "timm",
        lone_scale=alone and layout != "timm" and is_set,
    )


def _exists(image_tower: str | None, text_tower: str | None, layout: str) -> bool:
    try:
        if layout == "timm":
            return bool(image_tower and model_rows(image_tower, None, layout, "train"))
        return bool(model_rows(image_tower, text_tower, layout, "train"))
    except LookupError:
        return False


def _check_out(out: Path, force: bool) -> None:
    check_file_target(out, (".safetensors", *TORCH_SUFFIXES), force)
    if out.suffix != ".safetensors" and importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            f'Writing {out.name} needs PyTorch: pip install "mobileclip-keras[convert]". A .safetensors file does not.'
        )


def _write(tensors: dict[str, np.ndarray], out: Path, force: bool) -> None:
    with file_written_whole(out, force) as beside:
        if out.suffix == ".safetensors":
            from safetensors.numpy import save_file

            # PyTorch's own tools write this key and look for it.
            save_file(tensors, beside, metadata={"format": "pt"})
        else:
            import torch

            # PyTorch gets an open file. If it opens the file itself, its errors do not say what is wrong with the disk.
            with open(beside, "wb") as file:
                torch.save({key: torch.from_numpy(array) for key, array in tensors.items()}, file)
