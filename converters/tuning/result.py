"""The folder that a fine-tuning ends in: a converted one like any other, made from the tuned weights."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.models.copying import copy_model
from ...keras_models.models.model import MobileClipModel
from ...keras_models.store.foreign.json_file import Limits, read_json
from ...keras_models.store.load import load_folder
from ...keras_models.training.interpolation import interpolate
from ...verify.verification import Verification
from ..conversion.convert import Conversion, Tuned, VerificationError, convert
from ..conversion.progress import Progress
from ..conversion.to_torch import layout_of, to_torch
from .base import Base
from .log import RECORD

LIMITS = Limits(size=64 << 20, items=10_000_000)


def final_model(model: MobileClipModel, base: Base, alpha: float, lora: bool) -> MobileClipModel:
    """The tuned model in float32, its adapters merged, between what it was and what it is now.

    Args:
        model: after training, with its best weights.
        base: what it was.
        alpha: how much of the change is kept.
        lora: whether it has adapters.
    """
    if lora:
        model.merge_lora()
    if model.dtype_policy.name != "float32":
        model = copy_model(model, "float32")
    return model if alpha == 1 else interpolate(base.load(), model, alpha)


def write_result(
    base: Base,
    tuned: Path,
    out: Path,
    record: dict[str, Any],
    preprocess: ImagePreprocessor,
    write_log: Callable[[Path], None],
    *,
    verify: bool,
    force: bool,
    progress: Progress,
    report: Callable[[Verification], None],
) -> Conversion:
    """Writes the folder: both forms, verified against PyTorch with the tuned weights.

    Args:
        base: what was fine-tuned.
        tuned: the PyTorch checkpoint of the tuned weights.
        out: the folder to write.
        record: for conversion.json.
        preprocess: that training used.
        write_log: writes what training left into the folder.
        verify, force, progress, report: as for `convert`.

    Raises:
        MobileClipError: where the verification failed or the folder cannot be written; nothing is left of it.
    """

    def write(folder: Path) -> None:
        preprocess.save_pretrained(folder)
        write_log(folder)

    try:
        return convert(
            tuned,
            out,
            variant=base.variant.name,
            like_open_clip=base.like_open_clip,
            verify=verify,
            force=force,
            tuned=Tuned(record, write),
            progress=progress,
            report=report,
        )
    except VerificationError as error:
        raise VerificationError(
            f"The tuned weights were not written to {out}: what they compute is not equal to PyTorch. They lie in "
            f"{tuned}. The same command with --no-verify writes them as they are."
        ) from error


def write_checkpoint(model: MobileClipModel, path: Path) -> None:
    """Writes the tuned weights as a PyTorch checkpoint, whole."""
    to_torch(model, layout_of(model), path, force=True)


@contextmanager
def own_checkpoint(folder: Path) -> Iterator[Path]:
    """The PyTorch checkpoint of a folder's own train form, for as long as the context lasts.

    A fine-tuned folder comes from no other checkpoint.
    """
    with TemporaryDirectory() as place:
        path = Path(place) / f"{folder.resolve().name}.safetensors"
        write_checkpoint(load_folder(folder, form="train"), path)
        yield path


def read_result(out: Path) -> dict[str, Any] | None:
    """The record of the run that wrote a folder; None where the folder is none of a run's."""
    path = out / RECORD
    if not path.is_file():
        return None
    try:
        found = read_json(path, LIMITS, out)
    except (OSError, MobileClipError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("asked"), dict) else None
