"""The random changes of images that DataCompDR's teachers saw, done again from their recorded parameters.

DataCompDR names them by torchvision's transforms: RandomResizedCrop, then two of RandAugment's. Both are computed here
with Pillow, as torchvision computes them of Pillow images: pixel for pixel.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

Crop = tuple[int, int, int, int]
"""Top, left, height and width, in pixels of the original image."""

Change = tuple[int, float]
"""The number of an operation in `OPERATIONS`, and how much of it."""


def reapply(image: "Image.Image", crop: Crop, changes: Sequence[Change], size: int) -> "Image.Image":
    """An image as a teacher saw it.

    Args:
        image: in RGB.
        crop: what was cut out.
        changes: of RandAugment, in order.
        size: height and width of the result. The teachers' was 224.

    Returns:
        An image in RGB, (size, size).
    """
    from PIL import Image as Pillow

    top, left, height, width = crop
    image = image.crop((left, top, left + width, top + height)).resize((size, size), Pillow.Resampling.BICUBIC)
    for number, magnitude in changes:
        image = OPERATIONS[number](image, magnitude)
    return image


def _affine(matrix: Callable[[float], Sequence[float]]) -> Callable[[Any, float], Any]:
    def apply(image: Any, magnitude: float) -> Any:
        from PIL import Image

        return image.transform(image.size, Image.Transform.AFFINE, matrix(magnitude), Image.Resampling.NEAREST)

    return apply


def _rotate(image: Any, degrees: float) -> Any:
    from PIL import Image

    return image.rotate(degrees, Image.Resampling.NEAREST)


def _enhance(kind: str) -> Callable[[Any, float], Any]:
    def apply(image: Any, magnitude: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(image).enhance(1.0 + magnitude)

    return apply


def _image_op(name: str, argument: Callable[[float], tuple[Any, ...]]) -> Callable[[Any, float], Any]:
    def apply(image: Any, magnitude: float) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *argument(magnitude))

    return apply


OPERATIONS: tuple[Callable[[Any, float], Any], ...] = (
    lambda image, _: image,
    _affine(lambda shear: (1, math.tan(math.atan(shear)), 0, 0, 1, 0)),
    _affine(lambda shear: (1, 0, 0, math.tan(math.atan(shear)), 1, 0)),
    _affine(lambda shift: (1, 0, -int(shift), 0, 1, 0)),
    _affine(lambda shift: (1, 0, 0, 0, 1, -int(shift))),
    _rotate,
    _enhance("Brightness"),
    _enhance("Color"),
    _enhance("Contrast"),
    _enhance("Sharpness"),
    _image_op("posterize", lambda bits: (int(bits),)),
    _image_op("solarize", lambda threshold: (threshold,)),
    _image_op("autocontrast", lambda _: ()),
    _image_op("equalize", lambda _: ()),
)
"""By the numbers that DataCompDR gives them: Identity, ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness,
Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast, Equalize."""
