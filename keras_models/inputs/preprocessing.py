"""From images to the arrays that an image tower takes, with Pillow and NumPy alone."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import MobileClipError
from ..registry import Variant, get_variant
from ..store.resolve import FromPretrained
from ..store.rewriting import write_texts
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
        image_size: height and width of the result, in pixels.
        mean: of red, green and blue, subtracted from values in [0, 1].
        std: of red, green and blue; the result is divided by it.
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
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"image_size must be a positive integer, not {image_size!r}.")
        if interpolation not in RESAMPLE:
            raise ValueError(f'interpolation must be "bilinear" or "bicubic", not {interpolation!r}.')
        self.image_size = image_size
        self.mean = _three("mean", mean)
        self.std = _three("std", std)
        if 0 in self.std:
            raise ValueError(f"std must not hold 0, but is {self.std}.")
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
        if not path.is_file():
            raise MobileClipError(f"No preprocessing in {folder}: it holds no {CONFIG_FILE}.")
        try:
            return cls._from_config(json.loads(path.read_text(encoding="utf-8")))
        except KeyError as error:
            raise MobileClipError(f"{path} does not say {error}.") from error
        except (ValueError, TypeError) as error:
            raise MobileClipError(f"{path} cannot be followed: {error}") from error

    @classmethod
    def _from_config(cls, config: Any) -> Self:
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object.")
        left_out = [step for step in STEPS if not config.get(step, True)]
        if left_out:
            raise ValueError(f"it sets {' and '.join(left_out)} to false.")
        size, crop = config["size"], config["crop_size"]
        edge = size.get("shortest_edge") if isinstance(size, dict) else None
        if edge is None or crop != {"height": edge, "width": edge}:
            raise ValueError(
                'size must be {"shortest_edge": n} and crop_size {"height": n, "width": n}, '
                f"but they are {size} and {crop}."
            )
        names = {number: name for name, number in RESAMPLE.items()}
        if config["resample"] not in names:
            raise ValueError(f"resample must be 2 (bilinear) or 3 (bicubic), not {config['resample']!r}.")
        return cls(edge, config["image_mean"], config["image_std"], names[config["resample"]])

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
