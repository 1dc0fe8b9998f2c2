"""PyTorch's switches that let float32 products and convolutions compute with fewer bits.

A file of its own, because the PyTorch models of the verification compute with the same switches, whatever backend
Keras runs on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PRODUCTS = "torch.get_float32_matmul_precision()"
_LEGACY = ("torch.backends.cuda.matmul.allow_tf32", "torch.backends.cudnn.allow_tf32")
"""True rounds what is multiplied on NVIDIA's GPUs to TF32's 10 bits."""
_SWITCHES = (
    "torch.backends.cuda.matmul.fp32_precision",
    "torch.backends.cudnn.conv.fp32_precision",
    "torch.backends.cudnn.rnn.fp32_precision",
    "torch.backends.mkldnn.matmul.fp32_precision",
    "torch.backends.mkldnn.conv.fp32_precision",
    "torch.backends.mkldnn.rnn.fp32_precision",
)
"""From PyTorch 2.9 on. "ieee" is full float32; "tf32" and "bf16" round what is multiplied."""


def switches() -> dict[str, str]:
    """Each switch and its present setting."""
    return {name: str(value) for name, value in _settings().items()}


@contextmanager
def full_float32() -> Iterator[None]:
    """Within this context, for the whole process, float32 is computed in float32.

    The order is that of `_settings`, on the way in and out. PyTorch moves the precision of products with the oldest
    switches and the newest with both, and refuses to read one that contradicts another.
    """
    before = _settings()
    try:
        for name in before:
            _set(name, "highest" if name == _PRODUCTS else "ieee" if name.endswith("fp32_precision") else False)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _settings() -> dict[str, Any]:
    """What can be read, the old switches first."""
    found: dict[str, Any] = {}
    for name in (*_LEGACY, _PRODUCTS, *_SWITCHES):
        try:
            found[name] = _get(name)
        except (AttributeError, RuntimeError):  # an older PyTorch; an old switch that contradicts a new one
            continue
    return found


def _get(name: str) -> Any:
    if name == _PRODUCTS:
        return torch.get_float32_matmul_precision()
    owner, attribute = _place(name)
    return getattr(owner, attribute)


def _set(name: str, value: Any) -> None:
    if name == _PRODUCTS:
        torch.set_float32_matmul_precision(value)
    else:
        owner, attribute = _place(name)
        setattr(owner, attribute, value)


def _place(name: str) -> tuple[Any, str]:
    """The object that has a switch, and the attribute's name."""
    *path, attribute = name.removeprefix("torch.backends.").split(".")
    owner: Any = torch.backends
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute
