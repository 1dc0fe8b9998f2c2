"""What a bundle is proven on: the fixed inputs of every verification, and the same pictures as raw pixels."""

from dataclasses import dataclass

import numpy as np

from ....keras_models.inputs.image_reading import read_image
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ....keras_models.registry import Variant
from ....verify.data.inputs import PHOTOS, SEEDED, Inputs, fixed_inputs
from ..request import Request

GOLDEN = 8
"""Pictures, and texts, that a device checks itself against."""


@dataclass(frozen=True)
class ProofInputs:
    """The inputs of a proof.

    Attributes:
        fixed: what PyTorch gets: preprocessed images, and tokens.
        pixels: for each image uint8 (height, width, 3), where the graph preprocesses; else None.
    """

    fixed: Inputs
    pixels: tuple[np.ndarray, ...] | None

    def golden_rows(self) -> tuple[slice, slice]:
        """Where the golden images and texts stand. Golden inputs are all golden."""
        images, texts = len(self.fixed.images), len(self.fixed.tokens)
        first = 0 if texts <= GOLDEN else SEEDED
        return slice(max(images - GOLDEN, 0), images), slice(first, first + GOLDEN)

    def golden(self) -> "ProofInputs":
        """The photographs, and as many sentences: what a device checks itself against."""
        fixed = self.fixed
        rows = slice(len(fixed.images) - GOLDEN, len(fixed.images))
        some = Inputs(
            fixed.images[rows],
            fixed.tokens[SEEDED : SEEDED + GOLDEN],
            fixed.image_names[rows],
            fixed.texts[SEEDED : SEEDED + GOLDEN],
        )
        return ProofInputs(some, None if self.pixels is None else self.pixels[rows])


def proof_inputs(variant: Variant, image_size: int | None, request: Request) -> ProofInputs:
    """The same on every machine.

    Args:
        variant: whose.
        image_size: of the model's images; None for the variant's own.
        request: says whether the graph preprocesses, and the size that it takes.
    """
    fixed = fixed_inputs(variant, image_size)
    if not request.preprocess:
        return ProofInputs(fixed, None)
    preprocess = ImagePreprocessor.from_variant(variant.name)
    preprocess.image_size = image_size or variant.image_size
    pixels = tuple(picture_pixels(path, request.pixels) for path in sorted(PHOTOS.glob("*.jpg")))
    images = np.concatenate([preprocess(array) for array in pixels])
    return ProofInputs(Inputs(images, fixed.tokens, fixed.image_names[SEEDED:], fixed.texts), pixels)


def picture_pixels(path: object, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 (height, width, 3) of a picture, brought to the size that a graph takes."""
    image = read_image(path, str(path)).convert("RGB")
    if size is not None:
        image = image.resize((size[1], size[0]))
    return np.asarray(image)
