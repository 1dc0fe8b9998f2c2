"""Opening what `evaluate` is asked about: a converted folder, a repository, a variant, or an exported bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.image_reading import read_image
from ...keras_models.inputs.preprocessing import CONFIG_FILE, ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.registry import Variant
from ...keras_models.store.download import download_snapshot
from ...keras_models.store.file_names import BUNDLE_FILE, CONFIG, CONVERSION_FILE, TRAIN_FOLDER, WEIGHTS
from ...keras_models.store.folder import place_of, read_config
from ...keras_models.store.resolve import converted_folder, resolve_name
from ...verify.evaluation.encoder import Encoder, differences
from ...verify.evaluation.keras_encoder import KerasEncoder
from ..deploy.contents.bundle import PROOF_FILE, file_hashes, read_bundle, request_from_json
from ..deploy.proofs.proof import in_batches
from ..deploy.request import DeployError, Request
from ..deploy.runtimes.registry import Run, open_tower
from ..hub.record_fields import FINE_TUNED
from ..hub.records import file_digest, read_record
from .image_files import batch_size_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...keras_models.models.model import MobileClipModel

USUAL_BATCH = 32
LIKE_OPEN_CLIP = "It computes in open_clip's way, not as it was trained."
FINE_TUNED_WEIGHTS = "The weights were fine-tuned, and are not Apple's."
OWN_WEIGHTS = "The weights are not a conversion of Apple's: the folder has no conversion.json."


def open_model(name: str, batch_size: int | None) -> Encoder:
    """A model that can be evaluated.

    Args:
        name: a folder, a repository, a variant or a bundle.
        batch_size: images at once; None for what memory and bundle allow.

    Raises:
        MobileClipError: where it cannot be opened, or lacks a tower.
    """
    if (Path(name) / BUNDLE_FILE).is_file():
        return BundleEncoder(Path(name), batch_size)
    return _open_folder(name, _folder(name), batch_size)


def _folder(name: str) -> Path:
    match resolve_name(name):
        case Path() as folder:
            return folder
        case Variant() as variant:
            return converted_folder(variant)
        case repo:
            files = (CONFIG, WEIGHTS, f"{TRAIN_FOLDER}/{CONFIG}", CONFIG_FILE, CONVERSION_FILE)
            return download_snapshot(repo, allow_patterns=list(files))


def _open_folder(name: str, folder: Path, batch_size: int | None) -> KerasEncoder:
    from ...keras_models.models.model import MobileClipModel
    from ...keras_models.tasks.zero_shot import preprocessor_of

    place = place_of(folder, "inference")
    config = read_config(place, folder)["config"]
    if not (config["image_encoder"] and config["text_encoder"]):
        raise MobileClipError(f"{name} holds one tower alone. An evaluation needs both.")
    hashes = _hashes(folder, place)
    model = MobileClipModel.from_pretrained(folder, form="inference")
    has_preprocessing = (folder / CONFIG_FILE).exists()
    preprocess = ImagePreprocessor.from_pretrained(folder) if has_preprocessing else preprocessor_of(model)
    identity = {
        "kind": "Keras",
        "name": name,
        "variant": model.variant,
        "form": "inference",
        "dtype": model.dtype_policy.name,
        "weights_file": (place / WEIGHTS).relative_to(folder).as_posix(),
        "weights_sha256": hashes[(place / WEIGHTS).relative_to(folder).as_posix()],
        "files_sha256": hashes,
        "preprocessing": repr(preprocess),
    }
    size = batch_size or batch_size_for(preprocess.image_size, USUAL_BATCH)
    encoder = KerasEncoder(model, preprocess, identity, size)
    encoder.differences += _of_weights(folder, model)
    return encoder


def _hashes(folder: Path, place: Path) -> dict[str, str]:
    """The SHA-256 of each file that the figures depend on."""
    paths = [place / CONFIG, place / WEIGHTS, folder / CONFIG_FILE]
    return {path.relative_to(folder).as_posix(): file_digest(path, folder) for path in paths if path.exists()}


def _of_weights(folder: Path, model: "MobileClipModel") -> tuple[str, ...]:
    """How the weights differ from Apple's, in sentences."""
    found = []
    if not (folder / CONVERSION_FILE).exists():
        found.append(OWN_WEIGHTS)
    else:
        record = read_record(folder, CONVERSION_FILE)
        found += [LIKE_OPEN_CLIP] * (record.get("computes_like") == "open_clip")
        found += [FINE_TUNED_WEIGHTS] * (FINE_TUNED in record)
    if model.dtype_policy.name != "float32":
        found.append(f"It computes in {model.dtype_policy.name}.")
    return tuple(found)


class BundleEncoder:
    """A bundle, run in its own runtime.

    Args:
        folder: of the bundle. Its files must be those that its description names.
        batch_size: images at once; None for the largest that the bundle has.

    Raises:
        MobileClipError: where it lacks a tower, is not as it was exported, or its runtime is not installed.
    """

    def __init__(self, folder: Path, batch_size: int | None) -> None:
        about = read_bundle(folder)
        request = request_from_json(about["request"])
        _check_files(folder, about["files"])
        check_request(folder, request)
        request.how.check_packages(making=False)
        self._preprocess, self.width = _facts(folder, about)
        self._tokenize = Tokenizer(about["texts"]["context_length"])
        self._request, self._way = request, request.how.ways[0]
        self._rows = max(request.batches) if request.batches else batch_size or USUAL_BATCH
        self.batch_size = batch_size or max(self._rows, 8)
        variant = about["model"]["variant"]
        self.identity = {
            "kind": f"bundle for {request.how.title}",
            "name": str(folder),
            "variant": variant,
            "recipe": request.recipe,
            "weights_sha256": file_digest(folder / BUNDLE_FILE, folder),
            "files_sha256": about["files"],
            "preprocessing": repr(self._preprocess),
        }
        rounded = (f"Its weights are {request.recipe}.",) * (request.recipe != "float32")
        like = (LIKE_OPEN_CLIP,) * (about["model"].get("computes_like") == "open_clip")
        self.differences = (*differences(self._preprocess, variant), *rounded, *like)
        self._image = self._open(folder, "image")
        self._text = self._open(folder, "text")
        self._look_up = self._open(folder, "text_lookup") if request.embed_outside else None

    def _open(self, folder: Path, part: str) -> Run:
        rows = self._rows if self._request.batches else None
        return open_tower(self._request.runtime, folder / f"{part}{self._request.how.suffix}", rows, self._way)

    def prepare(self, image: bytes) -> "NDArray[Any]":
        """As `Encoder`: float32 (px, px, 3), or the picture's own uint8 pixels where the bundle prepares them."""
        if self._request.preprocess:
            return np.asarray(read_image(image, "Image number 0").convert("RGB"))
        return self._preprocess(image)[0]

    def encode_images(self, prepared: "Sequence[NDArray[Any]]") -> "NDArray[np.float32]":
        """As `Encoder`."""
        if self._request.preprocess:
            found = np.concatenate([self._image({"pixels": each[None]})["image_features"] for each in prepared])
        else:
            found = in_batches(self._image, {"image": np.stack(prepared)}, self._rows)["image_features"]
        return _units(found)

    def encode_texts(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """As `Encoder`."""
        given = {"tokens": np.asarray(self._tokenize(list(texts)), np.int32)}
        if self._look_up is not None:
            given = in_batches(self._look_up, given, self._rows)
        return _units(in_batches(self._text, given, self._rows)["text_features"])


def _units(features: "NDArray[Any]") -> "NDArray[np.float32]":
    features = features.astype(np.float32, copy=False)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _check_files(folder: Path, recorded: dict[str, str]) -> None:
    found = file_hashes(folder, (BUNDLE_FILE, PROOF_FILE))
    wrong = [name for name in recorded if recorded[name] != found.get(name)]
    if wrong:
        raise DeployError(f"{folder} is not as it was exported: {', '.join(wrong[:20])} are missing or have changed.")


def check_request(folder: Path, request: Request) -> None:
    """Raises DeployError for a bundle whose towers cannot be run on any picture and any text."""
    if len(request.towers) < 2:
        raise DeployError(f"{folder} holds one tower alone. An evaluation needs both.")
    if request.pixels is not None:
        height, width = request.pixels
        raise DeployError(f"{folder} takes pictures of {height} x {width} pixels alone, and pictures have many sizes.")


def _facts(folder: Path, about: dict[str, Any]) -> tuple[ImagePreprocessor, int]:
    """The preprocessing that a bundle's description says, and the width of features."""
    try:
        images, width = about["images"], about["model"]["embed_dim"]
        preprocess = ImagePreprocessor(
            images["image_size"], images["mean"], images["std"], images["resize"]["interpolation"]
        )
        if not (isinstance(width, int) and 0 < width <= 1 << 16) or about["texts"]["context_length"] != 77:
            raise ValueError("embed_dim or context_length is out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise DeployError(f"{folder / BUNDLE_FILE} does not say what the bundle takes: {error}.") from error
    return preprocess, width
