"""Layer norms as one operation of ONNX, where the converter wrote nine: a tenth of the time of one text."""

from typing import Any

import numpy as np

from .onnx_graph import Graph, replaced

OPSET, IR_VERSION = 17, 8
"""The first that have the operation."""


def with_layer_norms(model: Any) -> Any:
    """Puts the operation wherever a model computes a norm of distances, as kernels/tensorflow.py writes it."""
    from onnx import helper

    found = Graph(model.graph)
    tensors = {each.name: each for each in model.graph.initializer}
    gone: set[str] = set()
    instead: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type != "Add" or (match := _match(found, node, tensors)) is None:
            continue
        inner, inputs, gamma, beta, epsilon = match
        gone |= {each.output[0] for each in inner}
        instead[node.output[0]] = helper.make_node(
            "LayerNormalization", [inputs, gamma, beta], [node.output[0]], name=node.name, axis=-1, epsilon=epsilon
        )
    if instead:
        replaced(model, gone, instead, OPSET, IR_VERSION)
    return model


def _match(graph: Graph, last: Any, tensors: dict[str, Any]) -> tuple[list[Any], str, str, str, float] | None:
    """The operations that go, what the norm takes, the names of gamma and beta, and epsilon.

    distances / sqrt(mean of squared distances + epsilon) x gamma + beta, where the distances are those from the mean.
    """
    for scaled_name, beta in (last.input, reversed(last.input)):
        scaled = graph.maker(scaled_name, "Mul")
        for normed_name, gamma in (scaled.input, reversed(scaled.input)) if scaled is not None else ():
            normed = graph.maker(normed_name, "Div")
            if normed is None or gamma not in tensors or beta not in tensors:
                continue
            if inner := _inner(graph, normed, tensors):
                nodes, inputs, epsilon = inner
                return [*nodes, normed, scaled], inputs, gamma, beta, epsilon
    return None


def _inner(graph: Graph, normed: Any, tensors: dict[str, Any]) -> tuple[list[Any], str, float] | None:
    """What makes the distances and their root mean square, what the norm takes, and epsilon."""
    apart, root = graph.maker_of_any(normed.input[0], "Sub"), graph.maker(normed.input[1], "Sqrt")
    mean, wide = apart and graph.maker(apart.input[1], "ReduceMean"), root and graph.maker(root.input[0], "Add")
    if mean is None or wide is None or not _is_of_last_axis(mean, tensors) or mean.input[0] != apart.input[0]:
        return None
    for variance_name, epsilon in (wide.input, reversed(wide.input)):
        variance = graph.maker(variance_name, "ReduceMean")
        square = variance and graph.maker(variance.input[0], "Mul")
        if epsilon not in graph.numbers or square is None or not _is_of_last_axis(variance, tensors):
            continue
        of_distances = list(square.input) == [apart.output[0]] * 2
        if of_distances and graph.is_taken_by(apart.output[0], [square, normed]):
            return [mean, apart, square, variance, wide, root], apart.input[0], graph.numbers[epsilon]
    return None


def _is_of_last_axis(mean: Any, tensors: dict[str, Any]) -> bool:
    from onnx import helper, numpy_helper

    options = {each.name: helper.get_attribute_value(each) for each in mean.attribute}
    axes = numpy_helper.to_array(tensors[mean.input[1]]) if len(mean.input) > 1 else np.array(options.get("axes", []))
    return list(axes.reshape(-1)) == [-1] and options.get("keepdims", 1) == 1
