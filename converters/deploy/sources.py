"""The converted folder that is exported, checked before any work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...keras_models.registry import Variant, get_variant
from ...keras_models.store.download import download_snapshot
from ...keras_models.store.file_names import CONVERSION_FILE
from ...keras_models.store.folder import form_folders, read_config
from ...keras_models.store.resolve import converted_folder, resolve_name
from ..hub.agreement import find_disagreements
from ..hub.contents import file_hashes, find_changes
from ..hub.record_fields import VERIFICATION_FILE
from ..hub.records import read_record
from .request import TOWERS, DeployError


@dataclass(frozen=True)
class Source:
    """A folder that may be exported.

    Attributes:
        folder: its place.
        name: for the bundle.
        variant: that it holds.
        conversion: its record.
        held: its towers.
        image_size: of its images, where they are not the variant's.
    """

    folder: Path
    name: str
    variant: Variant
    conversion: dict[str, Any]
    held: tuple[str, ...]
    image_size: int | None


def find_source(name: str, checkpoint: Path | None) -> Source:
    """The folder that a name stands for.

    Args:
        name: a converted folder, a Hub repository or a variant.
        checkpoint: that PyTorch computes with; None for the train form in the folder.

    Raises:
        MobileClipError: where it cannot be exported, in one sentence.
    """
    found = resolve_name(name)
    if isinstance(found, Variant):
        # The program's own copy. It was not compared with PyTorch, and the proof of the bundle does that.
        return _source(converted_folder(found), found.name, checkpoint)
    folder = found if isinstance(found, Path) else download_snapshot(found)
    source = _source(folder, folder.resolve().name if isinstance(found, Path) else found.split("/")[-1], checkpoint)
    _check_verified(source)
    return source


def _source(folder: Path, name: str, checkpoint: Path | None) -> Source:
    conversion = read_record(folder, CONVERSION_FILE)
    places = form_folders(folder)
    config = read_config(next(iter(places.values())), folder)["config"]
    if conversion["dtype"] != "float32":
        raise DeployError(
            f"{folder} holds {conversion['dtype']} weights, which are rounded already: export a float32 conversion, "
            "and let --quantize round it."
        )
    if "train" not in places and checkpoint is None:
        raise DeployError(
            f"{folder} holds the inference form alone, which PyTorch cannot compute with: give the checkpoint by "
            "--src, or convert again with --form both."
        )
    held = tuple(tower for tower in TOWERS if config[f"{tower}_encoder"])
    size = conversion["source"].get("image_size")
    return Source(folder, name, get_variant(conversion["variant"]), conversion, held, size)


def _check_verified(source: Source) -> None:
    """Raises DeployError unless a folder is as it was when its verification passed."""
    folder = source.folder
    if not (folder / VERIFICATION_FILE).exists() or not read_record(folder, VERIFICATION_FILE).get("passed"):
        raise DeployError(
            f"{folder} is not verified, so nobody knows whether its weights are right: run mobileclip-keras verify "
            f"{folder} --src CHECKPOINT first."
        )
    verification = read_record(folder, VERIFICATION_FILE)
    wrong = find_changes(file_hashes(folder), verification, [])
    wrong += find_disagreements(folder, source.conversion, verification, [])
    if wrong:
        raise DeployError(f"{folder} is not as it was verified: {'; '.join(wrong)}.")
