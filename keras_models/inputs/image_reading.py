"""Reading any source of an image as an upright 8-bit Pillow image."""

import io
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MobileClipError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

# The EXIF tag of the orientation, and for each of its values but 1, which is upright, Pillow's transposition.
ORIENTATION = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# A Path has one slash where the URL that it was made of has two. One letter would be a drive of Windows.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:image/")
LONGEST_URL = 200

# Resampling may leave [0, 1] by its rounding. What leaves it by less than this is accepted; an 8-bit step is 1 / 255.
RANGE_TOLERANCE = 1e-3


class ImageError(MobileClipError, ValueError):
    """An image cannot be read: missing, damaged, too large, or of a kind that has no defined colours."""


def read_image(source: Any, name: str) -> "Image.Image":
    """`source` as a Pillow image, turned upright by its EXIF orientation, with 8 bits a channel.

    16-bit grey becomes 8-bit by scaling (65535 is white), and so do Pillow's 32-bit modes: "I" is read as
    0…65535, which is how Pillow itself opens 16-bit files, and "F" as 0…1. Other modes are kept as they are.

    Args:
        source: a path, the bytes of an image file, a file opened for reading bytes, a Pillow image, or an
            array (height, width) or (height, width, 1, 3 or 4): uint8, uint16, bool, or float in [0, 1],
            which is rounded to 8 bits. Anything with `__array__` counts as an array.
        name: what to call it in an error.

    Raises:
        ImageError: it cannot be read.
        TypeError: it is none of these.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _upright(source, name)
    if is_url(source):
        raise ImageError(f"{name[:LONGEST_URL]} is a URL, and URLs are not fetched. Download it, and give the file.")
    if isinstance(source, str | os.PathLike):
        return _decode(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), name)
    if hasattr(source, "read"):
        content = source.read()
        if not isinstance(content, bytes):
            raise TypeError(f'{name} is a file opened as text; open it with mode "rb".')
        return _decode(io.BytesIO(content), name)
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source), name)
    raise TypeError(
        f"{name} must be a path, the bytes of an image file, a file opened in binary mode, a Pillow image "
        f"or an array, not {type(source).__name__}."
    )


def is_url(source: Any) -> bool:
    """Whether a path is a URL, and no file of that name is there."""
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    return isinstance(path, str) and URL.match(path) is not None and not os.path.exists(path)


def readable_suffixes() -> frozenset[str]:
    """The suffixes of image files that can be read: ".jpg", ".png" and others, in lower case.

    Pillow names more. Some formats it only writes, and of some it knows the header alone.
    """
    from PIL import Image

    readable = {*_formats(), "MPO"}  # the reader of JPEG reads it
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


@cache
def _formats() -> tuple[str, ...]:
    """The formats that Pillow decodes itself. EPS is a program, which Ghostscript would run."""
    from PIL import Image, ImageFile

    Image.init()
    return tuple(
        name
        for name, (kind, _) in Image.OPEN.items()
        if name not in ("EPS", "MPEG") and not (isinstance(kind, type) and issubclass(kind, ImageFile.StubImageFile))
    )


def _decode(file: Any, name: str) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=_formats()) as image:
            return _upright(image, name)
    except MobileClipError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image, or of a format that Pillow does not know.") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise ImageError(f"{name} cannot be read: {error}") from error


def _upright(image: "Image.Image", name: str) -> "Image.Image":
    from PIL import Image

    try:
        image.load()
    except Exception as error:  # as in _decode: Pillow reads an image that the caller opened only now
        raise ImageError(f"{name} cannot be read: {error}") from error
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} × {image.height}.")
    orientation = _orientation(image)
    # A copy, because the image belongs to the caller or to the open file.
    image = image.transpose(Image.Transpose[TURNS[orientation]]) if orientation in TURNS else image.copy()
    if image.mode.startswith(("I", "F")):
        return _from_array(_wide_values(np.asarray(image), name), name)
    return image


def _orientation(image: "Image.Image") -> object:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # the EXIF data is damaged and gives no orientation, but the pixels are sound
        return None


def _wide_values(values: "NDArray[Any]", name: str) -> "NDArray[Any]":
    """The pixels of a 16-bit or 32-bit Pillow mode, as an array that `_from_array` scales."""
    if values.dtype.kind == "f":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} holds 32-bit integers outside 0…65535; scale it to 8 bits first.")
    return values.astype(np.uint16)


def _from_array(array: "NDArray[Any]", name: str) -> "Image.Image":
    from PIL import Image

    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))) or array.size == 0:
        raise ImageError(
            f"{name} has shape {array.shape}; an image is (height, width) or (height, width, channels), "
            "with 1, 3 or 4 channels."
        )
    return Image.fromarray(np.ascontiguousarray(_eight_bit(array, name)))


def _eight_bit(array: "NDArray[Any]", name: str) -> "NDArray[np.uint8]":
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        # 257 = 65535 / 255; adding half of it rounds.
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(f"{name} is an array of {array.dtype}; give uint8, uint16, bool, or float in [0, 1].")
    values = array.astype(np.float64)
    if not (values.min() >= -RANGE_TOLERANCE and values.max() <= 1 + RANGE_TOLERANCE):  # "not": NaN is outside
        span = f"{values.min():g} to {values.max():g}"
        raise ImageError(f"{name} holds {array.dtype} values from {span}; floats must lie in [0, 1].")
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
