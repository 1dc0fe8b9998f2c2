"""`ImagePreprocessor`'s arithmetic as a Keras layer."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
import numpy as np

from .geometry import centre_offset, resized_size

# Pillow's weights are multiples of 2^-22.
FINE = 2.0**22
COARSE = 2.0**11


# Rescaling is a public layer of Keras that also runs inside a tf.data pipeline, whatever backend Keras runs on.
# This layer resizes and crops before it rescales.
@keras.saving.register_keras_serializable("mobileclip_keras")
class PreprocessingLayer(keras.layers.Rescaling):
    """Resizes the shortest side, crops the centre, and normalises, with Pillow's arithmetic in tensors.

    Takes RGB images (height, width, 3) or (batch, height, width, 3) of any size, integers or floats in 0…255
    (as `tf.io.decode_jpeg` and `keras.utils.image_dataset_from_directory` give; multiply floats in [0, 1] by
    255 first), and gives float32 (image_size, image_size, 3), with the batch where there was one.

    On the same pixels, every resized pixel has the same 8-bit value as `ImagePreprocessor` gives it. What differs
    is the float32 rounding of the last multiplication. Measured on the eight photographs of verify/photos in
    three sizes, with both filters, on TensorFlow, JAX and PyTorch: at most 1.4e-7, on average 1.5e-8, in
    units of [0, 1]. There is one exception. Pillow 13 shrinks images more than twice as tall as wide in the other
    order. There one value in nine differs, by one step of 1/255, rarely two, on average 0.0005. Two JPEG decoders
    may differ by more than that.

    It rounds to 8 bits, so no gradient passes through. JAX compiles it anew for every image size.

    Args:
        image_size: height and width of the result, in pixels.
        mean: of red, green and blue, subtracted from values in [0, 1].
        std: of red, green and blue; the result is divided by it.
        interpolation: "bilinear" or "bicubic".

    Raises:
        ValueError: `interpolation` is another one, or the images have other than three channels.
    """

    def __init__(
        self,
        image_size: int = 256,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        interpolation: str = "bilinear",
        **kwargs: Any,
    ) -> None:
        if interpolation not in FILTERS:
            raise ValueError(f'interpolation must be "bilinear" or "bicubic", not {interpolation!r}.')
        # Pixels need float32, also for a model that computes in 16 bits.
        kwargs.setdefault("dtype", "float32")
        # Shaped to stay the last axis whatever Keras's image_data_format is.
        deviation = np.reshape(np.asarray(std, np.float64), (1, 1, 3))
        super().__init__(scale=1 / (255 * deviation), offset=-np.asarray(mean) / deviation, **kwargs)
        self.image_size = image_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation

    def call(self, inputs: Any) -> Any:
        if inputs.shape[-1] not in (3, None):
            raise ValueError(f"Images must have three channels, last; these have shape {tuple(inputs.shape)}.")
        ops = _operations(inputs)
        height, width = ops.shape(inputs)[-3:-1]
        if isinstance(height, int) and isinstance(width, int):
            arange, height, width = np.arange, float(height), float(width)
        else:  # TensorFlow learns the size when it runs.
            arange, height, width = ops.arange, ops.cast(height, "float64"), ops.cast(width, "float64")
        shortest = height - _positive(height - width)
        new_height, new_width = resized_size(height, width, shortest, self.image_size)

        images = ops.cast(inputs, "float32")
        # The width first, as in Pillow up to 12 and, for all but tall images, after it. Taps are gathered
        # along the first side, where they lie together.
        images = ops.swapaxes(images, -3, -2)
        images = _resampled(ops, images, *self._taps(arange, width, new_width))
        images = ops.swapaxes(images, -3, -2)
        images = _resampled(ops, images, *self._taps(arange, height, new_height))
        return super().call(images)

    def _taps(self, arange: Callable[..., Any], old: Any, new: Any) -> tuple[Any, Any]:
        """For each pixel of the result, the old pixels that it is made of and how much of each.

        Pillow's filters (src/libImaging/Resample.c): half-pixel centres, widened when shrinking. All is computed
        in float64 with operators alone, which NumPy and TensorFlow share. Keras' functions turn TensorFlow's
        float64 into float32 when Keras itself runs on another backend.

        Args:
            arange: of whatever holds `old` and `new`.
            old: pixels along the side of the image.
            new: pixels along the side once it is resized, of which the middle `image_size` are kept.

        Returns:
            Indices of old pixels, and their weights: two float64 arrays (image_size, taps).
        """
        reach, curve = FILTERS[self.interpolation]
        scale = old / new
        widening = 1 + _positive(scale - 1)
        centres = (
            arange(self.image_size, dtype="float64")[:, None] + centre_offset(new, self.image_size) + 0.5
        ) * scale
        taps = arange(2 * reach * widening // 1 + 2, dtype="float64")
        pixels = (centres - reach * widening + 0.5) // 1 + taps
        inside = _clipped(pixels + 1, 0, 1) * _clipped(old - pixels, 0, 1)
        weights = curve(abs(pixels + 0.5 - centres) / widening) * inside
        weights = weights / (weights @ (0 * taps[:, None] + 1))
        weights = (weights * FINE + 0.5) // 1 / FINE
        return _clipped(pixels, 0, old - 1), weights

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-3], self.image_size, self.image_size, 3)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["scale"], config["offset"]
        return config | {
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def _operations(tensor: Any) -> Any:
    """What holds `shape`, `cast` and so on for this tensor.

    A tf.data pipeline hands out TensorFlow's tensors whatever Keras runs on. `keras.ops` takes those of its own
    backend only.
    """
    if type(tensor).__module__.startswith("tensorflow."):
        from ..kernels import tensorflow_pixels

        return tensorflow_pixels
    return keras.ops


def _resampled(ops: Any, images: Any, pixels: Any, weights: Any) -> Any:
    """Weighted sums along the first side, rounded to 8 bits, without any other rounding.

    Pillow sums in integers. Two sums in float32 come to the same: with the weights cut into their first eleven
    bits and the rest, no product and no sum of theirs needs more bits than float32 has (nor any factor more than
    TF32 has, which is what GPUs may multiply in), as long as whole parts and fractions are added apart.
    """
    weights = ops.cast(weights, "float32")
    coarse = ops.round(weights * COARSE) / COARSE
    values = ops.take(images, ops.cast(pixels, "int32"), axis=-3)
    first = ops.einsum("...ykxc,yk->...yxc", values, coarse)
    rest = ops.einsum("...ykxc,yk->...yxc", values, weights - coarse)
    whole = ops.floor(first)
    # Bracketed so: TensorFlow's graph optimiser may add a chain of four in any order, and lose bits.
    return ops.clip(whole + ops.floor((first - whole) + (rest + 0.5)), 0, 255)


def _positive(value: Any) -> Any:
    """`value` where it is positive, else 0."""
    return (value + abs(value)) / 2


def _clipped(value: Any, low: Any, high: Any) -> Any:
    return high - _positive(high - low - _positive(value - low))


def _triangle(distance: Any) -> Any:
    return _positive(1 - distance)


def _cubic(distance: Any) -> Any:
    """Keys's cubic with a = -1/2, as the sum of what lies within 2 and what lies within 1."""
    outer, inner = _positive(2 - distance), _positive(1 - distance)
    return outer * outer * (outer - 1) / 2 + inner * inner * (1 - 2 * inner)


# How far a filter reaches, in pixels of whichever image is the coarser, and its curve.
FILTERS: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
}
