"""From images to the arrays that an image tower takes, with Pillow and NumPy alone."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import MobileClipError
from ..registry import Variant, get_variant
from ..store.foreign.json_fields import Check, fields, flag, listed, number, problems, whole
from ..store.foreign.json_file import read_json
from ..store.resolve import FromPretrained
from ..store.writing.rewriting import write_texts
from .geometry import centre_offset, resized_size
from .image_reading import ImageError, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from .preprocessing_layer import PreprocessingLayer

__all__ = ["ImageError", "ImagePreprocessor"]

CONFIG_FILE = "preprocessor_config.json"

# Names of the filters, and their numbers in Pillow and in preprocessor_config.json.
RESAMPLE = {"bilinear": 2, "bicubic": 3}
STEPS = ("do_resize", "do_center_crop", "do_convert_rgb", "do_rescale", "do_normalize")

LARGEST_IMAGE = 4096
"""Pixels a side: 200 MB as float32."""
LARGEST_MEAN, SMALLEST_STD, LARGEST_STD = 1e3, 1e-3, 1e3

_SIZE = whole(1, LARGEST_IMAGE)
_FIELDS: dict[str, Check] = {
    "size": fields({"shortest_edge": _SIZE}),
    "crop_size": fields({"height": _SIZE, "width": _SIZE}),
    "resample": whole(0, 5),
    "image_mean": listed(number(-LARGEST_MEAN, LARGEST_MEAN), most=3, least=3),
    "image_std": listed(number(SMALLEST_STD, LARGEST_STD), most=3, least=3),
}
_OPTIONAL: dict[str, Check] = {**dict.fromkeys(STEPS, flag), "rescale_factor": number(0.999 / 255, 1.001 / 255)}


class ImagePreprocessor(FromPretrained):
    """Resizes the shortest side, crops the centre, and normalises.

    The result equals torchvision's bit for bit: `Resize(image_size, interpolation)`, `CenterCrop(image_size)`,
    conversion to RGB, `ToTensor()` and `Normalize(mean, std)`, in this order, on the upright Pillow image. open_clip
    does the same, with two exceptions: here, an image is first turned upright if its EXIF data says so, and 16-bit
    grey is scaled to 8 bits, not clipped.

    Pillow's `convert("RGB")` makes the colours, after resizing; transparency is dropped, not laid over a background.
    Pillow resizes an image with a palette only by nearest pixels; for a smoother result, convert it to RGB first.
    Of an animation, only the first frame is read.

    Args:
        image_size: height and width of the result, in pixels, at most 4096.
        mean: of red, green and blue, subtracted from values in [0, 1].
        std: of red, green and blue, from 0.001 to 1000; the result is divided by it.
        interpolation: "bilinear" or "bicubic".

    Example:
        >>> ImagePreprocessor(image_size=256)(["cat.jpg", "dog.png"]).shape
        (2, 256, 256, 3)
    """

    _files = (CONFIG_FILE,)

    def __init__(
        self,
        image_size: int = 256,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        interpolation: str = "bilinear",
    ) -> None:
        if not isinstance(image_size, int) or isinstance(image_size, bool) or not 1 <= image_size <= LARGEST_IMAGE:
            raise ValueError(f"image_size must be a positive integer, at most {LARGEST_IMAGE}, not {image_size!r}.")
        if interpolation not in RESAMPLE:
            raise ValueError(f'interpolation must be "bilinear" or "bicubic", not {interpolation!r}.')
        self.image_size = image_size
        self.mean = _three("mean", mean)
        self.std = _three("std", std)
        if not all(SMALLEST_STD <= value <= LARGEST_STD for value in self.std):
            raise ValueError(f"std must lie between {SMALLEST_STD} and {LARGEST_STD:g}, but is {self.std}.")
        self.interpolation = interpolation

    @classmethod
    def from_variant(cls, name: str) -> Self:
        """What a variant ("s2") was trained with.

        Raises:
            UnknownVariantError: listing the known ones, nearest first.
        """
        return cls._from_variant(get_variant(name))

    @classmethod
    def _from_variant(cls, variant: Variant) -> Self:
        return cls(variant.image_size, variant.mean, variant.std, variant.interpolation)

    @classmethod
    def _from_folder(cls, folder: Path) -> Self:
        path = folder / CONFIG_FILE
        try:
            config = read_json(path, folder=folder)
        except FileNotFoundError as error:
            raise MobileClipError(f"No preprocessing in {folder}: it holds no {CONFIG_FILE}.") from error
        except OSError as error:
            raise MobileClipError(f"{path} cannot be read: {error.strerror or error}.") from error
        wrong = problems(config, fields(_FIELDS, _OPTIONAL)) or _not_followed(config)
        if wrong:
            raise MobileClipError(f"{path} cannot be followed: {'; '.join(wrong)}.")
        names = {number: name for name, number in RESAMPLE.items()}
        mean, std = config["image_mean"], config["image_std"]
        return cls(config["size"]["shortest_edge"], mean, std, names[config["resample"]])

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `preprocessor_config.json`, with the fields of Hugging Face's CLIPImageProcessor."""
        size = self.image_size
        config = {
            "image_processor_type": "CLIPImageProcessor",
            **dict.fromkeys(STEPS, True),
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "resample": RESAMPLE[self.interpolation],
            "rescale_factor": 1 / 255,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_texts(Path(folder), {CONFIG_FILE: json.dumps(config, indent=2) + "\n"})

    def __call__(self, images: Any) -> "NDArray[np.float32]":
        """float32 (batch, image_size, image_size, 3); one image is a batch of one.

        Args:
            images: one image, a list or tuple of images, or an array (batch, height, width, channels). An
                image is a path, the bytes of an image file, a file opened in binary mode, a Pillow image, or
                an array (height, width) or (height, width, 1, 3 or 4): uint8, uint16, bool, or float in
                [0, 1], which is rounded to 8 bits.

        Raises:
            ImageError: an image is missing, damaged, too large, or not as above; the message names it.
            TypeError: an image is something else altogether.
        """
        sources = _listed(images)
        batch = np.empty((len(sources), self.image_size, self.image_size, 3), np.float32)
        for index, source in enumerate(sources):
            name = str(source) if isinstance(source, str | Path) else f"Image number {index}"
            batch[index] = self._normalised(self._cropped(read_image(source, name), name))
        return batch

    def as_layer(self) -> "PreprocessingLayer":
        """The same as a Keras layer, for `tf.data` pipelines and for models that take raw images."""
        from .preprocessing_layer import PreprocessingLayer

        return PreprocessingLayer(self.image_size, self.mean, self.std, self.interpolation)

    def _cropped(self, image: "Image.Image", name: str) -> "Image.Image":
        from PIL import Image

        size = self.image_size
        height, width = resized_size(image.height, image.width, min(image.size), size)
        if Image.MAX_IMAGE_PIXELS and height * width > 2 * Image.MAX_IMAGE_PIXELS:
            sizes = f"{image.width} × {image.height} would become {width} × {height}"
            raise ImageError(f"{name} is too narrow: {sizes}.")
        try:
            image = image.resize((width, height), Image.Resampling(RESAMPLE[self.interpolation]))
            left, top = centre_offset(width, size), centre_offset(height, size)
            return image.crop((left, top, left + size, top + size)).convert("RGB")
        except ValueError as error:
            raise ImageError(f"{name} cannot be converted to RGB: {error}") from error

    def _normalised(self, image: "Image.Image") -> "NDArray[np.float32]":
        # Every step computes in float32, as torchvision does.
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (np.asarray(image).astype(np.float32) / np.float32(255) - mean) / std

    def __repr__(self) -> str:
        return f"ImagePreprocessor({self.image_size}, {self.mean}, {self.std}, {self.interpolation!r})"


def _not_followed(config: dict[str, Any]) -> list[str]:
    """What a record asks for that is not done here."""
    wrong = [f"it sets {step} to false" for step in STEPS if not config.get(step, True)]
    edge, crop = config["size"]["shortest_edge"], config["crop_size"]
    if (crop["height"], crop["width"]) != (edge, edge):
        wrong.append(f"size must be the edge of crop_size, but is {edge} where that is {crop}")
    if config["resample"] not in RESAMPLE.values():
        wrong.append(f"resample must be 2 (bilinear) or 3 (bicubic), not {config['resample']}")
    return wrong


def _listed(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return list(images)
    if getattr(images, "ndim", None) == 4:
        return list(np.asarray(images))
    return [images]


def _three(name: str, values: Iterable[float]) -> tuple[float, float, float]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be three finite numbers, not {numbers}.")
    return numbers
