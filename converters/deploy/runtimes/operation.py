"""An operation of an exported file, as the lint looks at it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """What an operation takes or gives: its number in the file, its shape (-1 where free), its dtype, and whether the
    file holds its numbers."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    """In upper case: "FLOAT32", "INT64"."""
    constant: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation."""

    kind: str
    """As the runtime calls it: "FULLY_CONNECTED"."""
    name: str
    """Of its first output. It holds the path of the layer that it comes from."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
