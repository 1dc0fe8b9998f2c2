"""Full float32 for a comparison, and what a device computes in when nobody asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..keras_models import kernels
from ..keras_models.kernels.probe import FLOAT32_BITS as FLOAT32_BITS
from ..keras_models.kernels.probe import kept_bits as kept_bits


@contextmanager
def full_float32() -> Iterator[None]:
    """Within this context Keras and PyTorch compute float32 in float32; afterwards the switches are as they were."""
    from ..keras_models.kernels import torch_precision

    with kernels.full_float32(), torch_precision.full_float32():
        yield


def switches() -> dict[str, str]:
    """The switches of Keras' backend and of PyTorch that let float32 be computed with fewer bits."""
    from ..keras_models.kernels import torch_precision

    return kernels.precision_switches() | torch_precision.switches()
