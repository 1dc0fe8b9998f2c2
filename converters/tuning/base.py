"""What is fine-tuned: a folder that holds the train form."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.preprocessing import CONFIG_FILE, ImagePreprocessor
from ...keras_models.models.model import MobileClipModel
from ...keras_models.registry import OPEN_CLIP_CONVENTIONS, VARIANTS, Variant
from ...keras_models.store.download import download_snapshot
from ...keras_models.store.file_names import CONFIG, CONVERSION_FILE, TRAIN_FOLDER, WEIGHTS
from ...keras_models.store.folder import form_folders, read_config
from ...keras_models.store.load import load_folder
from ...keras_models.store.resolve import converted_folder, resolve_name
from ...keras_models.tasks.zero_shot import preprocessor_of
from ..conversion.to_torch import ExportError, layout_of
from ..hub.record_fields import FINE_TUNED
from ..hub.records import file_digest, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRAIN_FILES = tuple(f"{TRAIN_FOLDER}/{name}" for name in (CONFIG, WEIGHTS))


class BaseError(MobileClipError):
    """A folder cannot be fine-tuned; the message says why and what to do."""


@dataclass(frozen=True)
class Base:
    """Weights before a fine-tuning.

    Attributes:
        folder: that holds them.
        variant: that they are of.
        weights_sha256: of the file of the train form.
        conversion: the record of their conversion; empty where there is none.
        like_open_clip: whether they compute in open_clip's way.
    """

    folder: Path
    variant: Variant
    weights_sha256: str
    conversion: "Mapping[str, Any]"
    like_open_clip: bool

    def load(self, dtype: str = "float32") -> MobileClipModel:
        """The model in train form, whose weights are float32.

        Raises:
            BaseError: where there is no way back to PyTorch, which the result must have.
        """
        model = load_folder(self.folder, form="train", dtype=dtype)
        try:
            layout_of(model)
        except ExportError as error:
            raise BaseError(f"{self.folder} cannot be fine-tuned by this command: {error}") from error
        return model

    def preprocess(self, model: MobileClipModel) -> ImagePreprocessor:
        """What its images go through."""
        has_own = (self.folder / CONFIG_FILE).exists()
        return ImagePreprocessor.from_pretrained(self.folder) if has_own else preprocessor_of(model)

    def origin(self) -> dict[str, Any]:
        """Where the weights come from, for the record of what becomes of them."""
        source = self.conversion["source"] if self.conversion else {}
        return {
            "file": source.get("file"),
            "sha256": source.get("sha256"),
            "weights_sha256": self.weights_sha256,
            "fine_tuned": FINE_TUNED in self.conversion,
        }


def find_base(name: str) -> Base:
    """The weights that a name stands for.

    Args:
        name: a converted folder, a repository on the Hub, or a variant.

    Raises:
        MobileClipError: where there is no such thing, or it lacks the train form or a tower.
    """
    folder = _folder(name)
    places = form_folders(folder)
    if "train" not in places:
        raise BaseError(
            f"{name} holds the inference form alone, which cannot be trained: its branches and batch norms were "
            "folded. Convert the checkpoint again with --form both, which keeps the train form beside it."
        )
    place = places["train"]
    config = read_config(place, folder)["config"]
    if not (config["image_encoder"] and config["text_encoder"]):
        raise BaseError(f"{name} holds one tower alone. Pairs need both.")
    variant = VARIANTS.get(config["variant"])
    if variant is None:
        raise BaseError(
            f"{name} is of no variant that there is, so there is no way back to PyTorch. Fine-tune it by fit."
        )
    conversion = read_record(folder, CONVERSION_FILE) if (folder / CONVERSION_FILE).exists() else {}
    return Base(folder, variant, file_digest(place / WEIGHTS, folder), conversion, _like_open_clip(config, variant))


def _folder(name: str) -> Path:
    match resolve_name(name):
        case Path() as folder:
            return folder
        case Variant() as variant:
            return converted_folder(variant)
        case repo:
            return download_snapshot(
                repo, allow_patterns=[CONFIG, WEIGHTS, CONFIG_FILE, CONVERSION_FILE, *_TRAIN_FILES]
            )


def _like_open_clip(config: dict[str, Any], variant: Variant) -> bool:
    if variant.image_tower != "vit_b16":
        return False
    image = config["image_encoder"]["config"]
    return all(image.get(key) == value for key, value in OPEN_CLIP_CONVENTIONS.items())
