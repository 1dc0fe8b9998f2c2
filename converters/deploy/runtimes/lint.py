"""Which operations of an exported tower a delegate would refuse, and the layer that each comes from.

A delegate that refuses one operation leaves it to the processor, and copies between the two; some give wrong results
without an error. The rules are those of LiteRT's GPU delegate and of WebGPU, read in their sources in November 2026: at
most four dimensions, no 64-bit integers, and none of some operations. TensorFlow's own analyser passes some of them.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .operation import Operation

MOST_DIMENSIONS = 4
REFUSED_TYPES = ("INT64", "FLOAT64", "STRING", "COMPLEX64")
REFUSED = (
    "ARG_MAX",
    "ARG_MIN",
    "BROADCAST_ARGS",
    "BROADCAST_TO",
    "CUSTOM",
    "DYNAMIC_UPDATE_SLICE",
    "EMBEDDING_LOOKUP",
    "GATHER",
    "GATHER_ND",
    "HASHTABLE_LOOKUP",
    "IF",
    "RANGE",
    "SCATTER_ND",
    "SELECT",
    "SELECT_V2",
    "SHAPE",
    "UNIQUE",
    "WHERE",
    "WHILE",
)
INTEGER_ARITHMETIC = ("ADD", "MUL", "SUB", "REDUCE_MAX", "REDUCE_MIN", "LESS", "EQUAL", "ONE_HOT", "MINIMUM", "MAXIMUM")
"""Taken for floats, refused for integers of 32 bits."""

NUMBERED = ("blocks", "downsample", "layer_scale", "patch_embed", "stages", "stem")
"""Parts of a tower that have numbers of their own."""
FUSED = {"tfl.embedding_lookup": "text_encoder/backbone/token_embedding"}
"""What LiteRT's converter names itself, and the layer that it is."""
_COUNTER = re.compile(r"(?P<name>.+)_\d+")


@dataclass(frozen=True)
class Finding:
    """An operation that is refused."""

    kind: str
    layer: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As bundle.json has it."""
        return asdict(self)


def lint(operations: Iterable[Operation]) -> list[Finding]:
    """Everything that a GPU delegate would refuse, in the order of computation."""
    found = []
    for operation in operations:
        reason = _reason(operation)
        if reason is not None:
            found.append(Finding(operation.kind, layer_of(operation.name), reason))
    return found


def _reason(operation: Operation) -> str | None:
    tensors = (*operation.inputs, *operation.outputs)
    types = {tensor.dtype for tensor in tensors}
    most = max((len(tensor.shape) for tensor in tensors), default=0)
    if operation.kind in REFUSED:
        return "no GPU delegate has this operation"
    if most > MOST_DIMENSIONS:
        return f"it has {most} dimensions; {MOST_DIMENSIONS} are taken"
    if wrong := sorted(types & set(REFUSED_TYPES)):
        return f"it computes in {wrong[0].lower()}"
    if operation.kind in INTEGER_ARITHMETIC and operation.inputs and operation.inputs[0].dtype == "INT32":
        return "it computes in int32; floats are taken"
    return None


def layer_of(name: str) -> str:
    """The path of the layer in the model, out of the name of a tensor.

    TensorFlow adds a number to a name that it has given before, and converters join names by semicolons.
    """
    path = name.split(";")[0].removeprefix("StatefulPartitionedCall/")
    if path in FUSED:
        return FUSED[path]
    *layers, operation = path.split("/")
    return "/".join(map(_uncounted, layers)) or operation


def _uncounted(name: str) -> str:
    """A layer's name without the number that TensorFlow added."""
    counted = _COUNTER.fullmatch(name)
    return name if counted is None or counted["name"] in NUMBERED else counted["name"]
