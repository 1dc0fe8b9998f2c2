"""What LiteRT's GPU delegate refuses. LiteRT.js computes by the same on WebGPU.

Read in its sources in November 2026: at most four dimensions, no 64-bit integers, and none of some operations.
TensorFlow's own analyser passes some of them. That slices keep their dimensions, LiteRT.js 2.5.3 says itself.
"""

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


def reason(operation: Operation) -> str | None:
    """Why an operation is refused; None where it is taken."""
    tensors = (*operation.inputs, *operation.outputs)
    types = {tensor.dtype for tensor in tensors}
    most = max((len(tensor.shape) for tensor in tensors), default=0)
    if operation.kind in REFUSED:
        return "no GPU delegate has this operation"
    if operation.kind == "STRIDED_SLICE" and len(operation.outputs[0].shape) < len(operation.inputs[0].shape):
        return "it takes a dimension away; a RESHAPE may"
    if most > MOST_DIMENSIONS:
        return f"it has {most} dimensions; {MOST_DIMENSIONS} are taken"
    if wrong := sorted(types & set(REFUSED_TYPES)):
        return f"it computes in {wrong[0].lower()}"
    if operation.kind in INTEGER_ARITHMETIC and operation.inputs and operation.inputs[0].dtype == "INT32":
        return "it computes in int32; floats are taken"
    return None
