"""What onnxruntime-web leaves to the processor when it computes on WebGPU.

Measured with version 1.30.0 in Chromium: a file of one operation for each kind and type, and where its log says that
the operation is placed. An operation that is not listed was not asked about, or some other runtime on WebGPU lacks it.
"""

from .operation import Operation

MOST_DIMENSIONS = 4
TAKEN = frozenset(
    (
        "Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Conv",
        "CumSum", "DequantizeLinear", "Div", "Einsum", "Equal", "Erf", "Exp", "Flatten", "Floor", "Gather",
        "Gelu", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual", "Identity", "InstanceNormalization",
        "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not",
        "Pad", "Pow", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt",
        "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze",
    )
)  # fmt: skip
"""Without those that it has and others lack: ArgMax, Expand, GatherElements, GatherND, ScatterND, TopK, Where."""
NOT_IN_INT32 = ("Abs", "Neg", "Slice")
REFUSED_TYPES = ("COMPLEX64", "FLOAT64", "INT64", "STRING", "UINT64")
HALF_AND_SINGLE = {"FLOAT16", "FLOAT32"}


def reason(operation: Operation) -> str | None:
    """Why an operation is refused; None where it is taken.

    Constants are not looked at: ONNX gives shapes and axes as int64, and they are read once.
    """
    tensors = [each for each in (*operation.inputs, *operation.outputs) if not each.constant]
    types = {tensor.dtype for tensor in tensors}
    most = max((len(tensor.shape) for tensor in tensors), default=0)
    if operation.kind not in TAKEN:
        return "not every runtime on WebGPU has this operation"
    if most > MOST_DIMENSIONS:
        return f"it has {most} dimensions; {MOST_DIMENSIONS} are taken"
    if wrong := sorted(types & set(REFUSED_TYPES)):
        return f"it computes in {wrong[0].lower()}"
    if operation.kind in NOT_IN_INT32 and "INT32" in types:
        return "it computes in int32; floats are taken"
    if operation.kind == "Cast" and types == HALF_AND_SINGLE and "_encoder" in operation.name:
        return "it casts between float16 and float32"
    return None
