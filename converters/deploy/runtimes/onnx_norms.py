"""Layer norms as one operation of ONNX, where the converter wrote a dozen: a tenth of the time of one text."""

from typing import Any

import numpy as np

from .onnx_graph import Graph, replaced

OPSET, IR_VERSION = 17, 8
"""The first that have the operation."""


def with_layer_norms(model: Any) -> Any:
    """Puts the operation wherever a model computes what `layer_norm` of kernels/plain_norms.py says."""
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

    inputs x scale + (beta - mean x scale), where scale is gamma x sqrt(variance + epsilon) / (variance + epsilon).
    """
    for product_name, shift_name in (last.input, reversed(last.input)):
        product, shift = graph.maker(product_name, "Mul"), graph.maker(shift_name, "Sub")
        if product is None or shift is None or shift.input[0] not in tensors:
            continue
        moved = graph.maker(shift.input[1], "Mul")
        if moved is None:
            continue
        for scale_name, mean_name in (moved.input, reversed(moved.input)):
            inner = _inner(graph, product, scale_name, mean_name, tensors)
            if inner is None:
                continue
            nodes, inputs, gamma, epsilon = inner
            nodes += [product, shift, moved]
            made = [name for node in nodes for name in node.output]
            if all(graph.is_taken_by(name, [*nodes, last]) for name in made):
                return nodes, inputs, gamma, shift.input[0], epsilon
    return None


def _inner(
    graph: Graph, product: Any, scale_name: str, mean_name: str, tensors: dict[str, Any]
) -> tuple[list[Any], str, str, float] | None:
    """What makes scale and mean, what the norm takes, the name of gamma, and epsilon."""
    scale, mean = graph.maker_of_any(scale_name, "Mul"), graph.maker_of_any(mean_name, "ReduceMean")
    if scale is None or mean is None or scale_name not in product.input or not _is_of_last_axis(mean, tensors):
        return None
    inputs = mean.input[0]
    if sorted(product.input) != sorted((inputs, scale_name)):
        return None
    for inverse_name, gamma in (scale.input, reversed(scale.input)):
        inverse = graph.maker(inverse_name, "Div")
        root = inverse and graph.maker(inverse.input[0], "Sqrt")
        if gamma not in tensors or root is None or root.input[0] != inverse.input[1]:
            continue
        wide = graph.maker_of_any(root.input[0], "Add")
        for variance_name, epsilon in (wide.input, reversed(wide.input)) if wide is not None else ():
            variance = graph.maker(variance_name, "ReduceMean")
            if epsilon not in graph.numbers or variance is None or not _is_of_last_axis(variance, tensors):
                continue
            square = graph.maker(variance.input[0], "Mul")
            if square is None or square.input[0] != square.input[1]:
                continue
            apart = graph.maker_of_any(square.input[0], "Sub")
            if apart is not None and list(apart.input) == [inputs, mean_name]:
                return (
                    [scale, mean, inverse, root, wide, variance, square, apart],
                    inputs,
                    gamma,
                    graph.numbers[epsilon],
                )
    return None


def _is_of_last_axis(mean: Any, tensors: dict[str, Any]) -> bool:
    from onnx import helper, numpy_helper

    options = {each.name: helper.get_attribute_value(each) for each in mean.attribute}
    axes = numpy_helper.to_array(tensors[mean.input[1]]) if len(mean.input) > 1 else np.array(options.get("axes", []))
    return list(axes.reshape(-1)) == [-1] and options.get("keepdims", 1) == 1
