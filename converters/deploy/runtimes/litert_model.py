"""LiteRT files as objects, read and written.

A file is a FlatBuffer, in which two fields may point to one vector. Every channel of a rounded weight has a scale, of 4
bytes, and a zero point, of 8, which is always 0 here. Written once for each length, the zero points of all weights take
nearly nothing. The runtime refuses a file without them.
"""

from pathlib import Path
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"
_ALIGNED = 16
"""Bytes: the schema's `force_align` of a buffer's data."""


def read_model(path: Path) -> Any:
    """A file's ModelT, of ai_edge_litert.schema_py_generated."""
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model(str(path))


def write_model(model: Any, path: Path) -> None:
    """Writes a ModelT."""
    builder = _builder()
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    path.write_bytes(builder.Output())


def _builder() -> Any:
    """A builder that writes equal vectors once, and buffers' data where the schema wants them."""
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
    return Builder(1024)
