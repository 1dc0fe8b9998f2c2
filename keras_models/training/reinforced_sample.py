"""One sample of a reinforced data set, as DataCompDR publishes it.

Of a sample `key`, a shard holds these files:

- `key.jpg` (or .png, .jpeg, .webp) and `key.txt`: the image and its caption, which DataCompDR itself leaves out.
- `key.paug.json`: {"param_aug": a list, or the same as a text}, for each augmentation [crop, changes]: `crop` is [top,
  left, height, width], `changes` a list of [operation, magnitude], or null.
- `key.syn.json`: {"syn_text": [synthetic captions]}.
- `key.npz` or `key.pth.gz` (PyTorch's, in gzip): "image_emb" (augmentations, width) and "text_emb" (1 + synthetic
  captions, width), the real caption first. A row holds the features of all teachers side by side.

Source: https://huggingface.co/datasets/apple/DataCompDR-12M, and training/ in github.com/apple/ml-mobileclip.
"""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MobileClipError
from ..kernels.torch_pickles import read_arrays
from ..store.foreign.json_file import Limits, parse_json
from .augmentations import OPERATIONS, Change, Crop

IMAGES = ("jpg", "png", "jpeg", "webp")
REINFORCEMENTS = ("paug.json", "syn.json")
EMBEDDINGS = ("npz", "pth.gz")
ARRAYS = ("image_emb", "text_emb")

GZIP = 31
"""How zlib is told that what follows is in gzip."""

LIMITS = Limits(size=4 << 20, text=4 << 20, items=200_000)
MOST_BYTES = 256 << 20
"""Of one sample's embeddings, unpacked. DataCompDR's have a quarter of a megabyte."""


class DataError(MobileClipError, ValueError):
    """A data set holds something that cannot be trained with; the message names the file. Also a ValueError."""


@dataclass(frozen=True)
class ReinforcedSample:
    """An image with its captions, its augmentations, and what teachers make of each.

    Attributes:
        name: shard and key, for messages.
        image: the bytes of an image file.
        text: the real caption.
        augmentations: each a crop and changes of the image; one or more.
        syn_texts: synthetic captions; one or more.
        image_features: float32 (augmentations, width).
        text_features: float32 (1 + synthetic captions, width).
    """

    name: str
    image: bytes
    text: str
    augmentations: list[tuple[Crop, list[Change]]]
    syn_texts: list[str]
    image_features: np.ndarray
    text_features: np.ndarray


def is_whole(files: dict[str, bytes]) -> bool:
    """Whether an image and a caption stand beside the reinforcements: some images are no longer there to download."""
    return any(kind in files for kind in IMAGES) and bool(files.get("txt", b"").strip())


def read_sample(name: str, files: dict[str, bytes]) -> ReinforcedSample:
    """The sample of some files, which `is_whole` said yes to.

    Args:
        name: for messages.
        files: their contents, by what follows the key, such as "paug.json".

    Raises:
        DataError: naming the file that is missing or damaged.
        MissingPackageError: where .pth.gz files are to be read and PyTorch is not there.
    """
    for kind in REINFORCEMENTS:
        if kind not in files:
            raise DataError(f"{name} has no .{kind}. A reinforced data set has one for each image.")
    augmentations = [
        _augmentation(each, name) for each in _listed(files["paug.json"], "param_aug", f"{name}.paug.json")
    ]
    syn_texts = _listed(files["syn.json"], "syn_text", f"{name}.syn.json")
    if not all(isinstance(text, str) for text in syn_texts):
        raise DataError(f"{name}.syn.json holds captions that are no texts.")
    images, texts = _embeddings(name, files)
    if len(images) != len(augmentations) or len(texts) != 1 + len(syn_texts) or images.shape[1] != texts.shape[1]:
        raise DataError(
            f"{name} has {len(augmentations)} augmentations and {len(syn_texts)} synthetic captions, and embeddings of "
            f"the shapes {images.shape} and {texts.shape}."
        )
    image = next(files[kind] for kind in IMAGES if kind in files)
    text = files["txt"].decode("utf-8", "replace").strip()
    return ReinforcedSample(name, image, text, augmentations, syn_texts, images, texts)


def _listed(content: bytes, key: str, name: str) -> list[Any]:
    """The list in a JSON file of one entry, which may be written as a text of JSON again."""
    try:
        found = parse_json(content, name, LIMITS)
        value = found.get(key) if isinstance(found, dict) else None
        if isinstance(value, str):
            value = parse_json(value.encode(), name, LIMITS)
    except MobileClipError as error:
        raise DataError(str(error)) from error
    if not isinstance(value, list) or not value:
        raise DataError(f'{name} has no list "{key}".')
    return value


def _augmentation(value: Any, name: str) -> tuple[Crop, list[Change]]:
    try:
        crop, changes = value
        top, left, height, width = map(int, crop)
        if min(height, width) < 1:
            raise ValueError
        made = [(int(number), float(magnitude)) for number, magnitude in changes or []]
        if any(not 0 <= number < len(OPERATIONS) for number, _ in made):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        told = json.dumps(value)[:80]
        raise DataError(f"{name}.paug.json holds {told}, which is no [crop, changes] of an image.") from error
    return (top, left, height, width), made


def _embeddings(name: str, files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    kind = next((kind for kind in EMBEDDINGS if kind in files), None)
    if kind is None:
        raise DataError(f"{name} has neither .npz nor .pth.gz, which hold the teachers' embeddings.")
    try:
        found = (_from_npz if kind == "npz" else _from_pth)(files[kind])
        arrays = [np.asarray(found[key], np.float32) for key in ARRAYS]
    except MobileClipError:
        raise
    except Exception as error:  # each library has errors of its own for damaged files
        raise DataError(f"{name}.{kind} is damaged, or holds no image_emb and text_emb.") from error
    if any(array.ndim != 2 or not np.isfinite(array).all() for array in arrays):
        raise DataError(f"{name}.{kind} holds embeddings that are no finite numbers in rows.")
    return arrays[0], arrays[1]


def _from_npz(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > MOST_BYTES:
            raise ValueError("too large")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in ARRAYS}


def _from_pth(content: bytes) -> dict[str, np.ndarray]:
    return read_arrays(zlib.decompressobj(wbits=GZIP).decompress(content, MOST_BYTES), ARRAYS)
