"""What an evaluation asks of a model, whatever runs it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.registry import UnknownVariantError, get_variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Encoder(Protocol):
    """A model with its preprocessing."""

    identity: dict[str, Any]
    """What the model is, as JSON has it: at least "kind", "name", "variant" and hashes of its weights."""
    differences: tuple[str, ...]
    """How it differs from what Apple measured, in sentences, as far as it is known."""
    batch_size: int
    """Images that are computed at once."""
    width: int
    """Of a feature."""

    def prepare(self, image: bytes) -> "NDArray[Any]":
        """What the image tower takes of an image file. Called from several threads.

        Raises:
            ImageError: where it is no image.
        """

    def encode_images(self, prepared: "Sequence[NDArray[Any]]") -> "NDArray[np.float32]":
        """Features of length 1, of at most `batch_size` images."""

    def encode_texts(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Features of length 1, of any number of texts."""


def differences(preprocess: ImagePreprocessor, variant: str | None) -> tuple[str, ...]:
    """How a model's preprocessing differs from what its variant was trained and measured with."""
    try:
        usual = ImagePreprocessor.from_variant(variant or "")
    except UnknownVariantError:
        return ("The model is of no published variant.",)
    names = {"image_size": "size", "mean": "mean", "std": "standard deviation", "interpolation": "interpolation"}
    found = [
        f"{title} {getattr(preprocess, name)} in place of {getattr(usual, name)}"
        for name, title in names.items()
        if getattr(preprocess, name) != getattr(usual, name)
    ]
    return (f"The preprocessing is another than {get_variant(variant or '').title}'s: {', '.join(found)}.",) * bool(
        found
    )
