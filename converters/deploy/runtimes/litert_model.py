"""LiteRT files as objects, read and written.

A file is a FlatBuffer, in which two fields may point to one vector. Every channel of a rounded weight has a scale, of 4
bytes, and a zero point, of 8, which is always 0 here. Written once for each length, the zero points of all weights take
nearly nothing. The runtime refuses a file without them.
"""

from pathlib import Path
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"
ROOM = 2**20
"""Bytes for all but the weights, in most files."""
_ALIGNED = 16
"""Bytes: the schema's `force_align` of a buffer's data."""


def read_model(path: Path) -> Any:
    """A file's ModelT, of ai_edge_litert.schema_py_generated."""
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model(str(path))


def write_model(model: Any, path: Path) -> None:
    """Writes a ModelT."""
    # Room for all from the start: by itself a builder doubles its room again and again, up to three times the file.
    weights = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = _builder(weights + ROOM)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    with open(path, "wb") as file:
        file.write(memoryview(builder.Bytes)[builder.Head() :])


def _builder(room: int) -> Any:
    """A builder that writes equal vectors once, and buffers' data where the schema wants them.

    Args:
        room: bytes that it begins with.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def CreateNumpyVector(self, x: np.ndarray) -> int:
            if x.dtype == np.uint8:  # a weight's numbers: large, and no other weight's
                self.Prep(_ALIGNED, x.nbytes)
                return int(super().CreateNumpyVector(x))
            key = x.dtype.str, x.tobytes()
            if key not in written:
                written[key] = super().CreateNumpyVector(x)
            return written[key]

    written: dict[tuple[str, bytes], int] = {}
    return Builder(room)
