"""Shapes that an ONNX program computes from its batch, made constants.

A converter that does not know the batch computes every new shape anew: shape, cast, slice, join, in whole numbers of 64
bits, on the processor. One size alone is free, and a reshape finds that by itself.
"""

from typing import Any

BATCHES = (2, 3)
"""What differs between a program of two rows and one of three is the batch."""
FREE = -1
"""For a reshape: whatever is left."""


def with_constant_shapes(model: Any) -> Any:
    """Gives each reshape a constant, where its shape follows from the batch and at most one size is free.

    Args:
        model: whose inputs have a free first axis and nothing else that is free; any other is left as it is.

    Returns:
        The model, changed.
    """
    import numpy as np
    from onnx import numpy_helper

    if any(not dim.dim_value for each in model.graph.input for dim in each.type.tensor_type.shape.dim[1:]):
        return model
    constants = {each.name for each in model.graph.initializer}
    found = [_sizes(model, batch) for batch in BATCHES]
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        one, other = (sizes.get(node.output[0], []) for sizes in found)
        if not one or len(one) != len(other):
            continue
        fixed = [size if size == of_more else FREE for size, of_more in zip(one, other, strict=True)]
        if fixed.count(FREE) <= 1:
            name = f"{node.output[0]}_shape"
            model.graph.initializer.append(numpy_helper.from_array(np.array(fixed, np.int64), name))
            node.input[1] = name
    drop_unused(model.graph)
    return model


def _sizes(model: Any, batch: int) -> dict[str, list[int]]:
    """The shape of every tensor whose sizes are all known once the batch is."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for each in copy.graph.input:
        first = each.type.tensor_type.shape.dim
        if first and not first[0].dim_value:
            first[0].dim_value = batch
    del copy.graph.value_info[:]
    for each in copy.graph.output:
        each.type.tensor_type.ClearField("shape")
    found = {}
    for info in onnx.shape_inference.infer_shapes(copy, data_prop=True).graph.value_info:
        sizes = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.HasField("shape") and all(sizes):
            found[info.name] = sizes
    return found


def drop_unused(graph: Any) -> None:
    """Removes operations whose results nobody uses, in whatever order they stand. onnxruntime leaves them."""
    makers = {name: node for node in graph.node for name in node.output}
    used, waiting = set(), [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in used:
            used.add(node.output[0])
            waiting.extend(node.input)
    kept = [node for node in graph.node if node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)
