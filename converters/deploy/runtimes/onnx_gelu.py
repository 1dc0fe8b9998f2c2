"""GELU as one operation of ONNX, where the converter wrote five: a quarter of the time of an image tower of S0."""

import math
from typing import Any

import numpy as np

OPSET, IR_VERSION = 20, 9
"""The first that have the operation. A runtime without a program of its own for it computes it as ONNX defines it."""
_NEAR = 1e-6
"""Of a constant, relative."""


class _Graph:
    """Who makes and who takes each tensor."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.numbers = {
            tensor.name: float(numpy_helper.to_array(tensor).reshape(-1)[0])
            for tensor in graph.initializer
            if np.prod(tensor.dims) == 1
        }
        self._makers = {name: node for node in graph.node for name in node.output}
        self._takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def maker(self, name: str, kind: str) -> Any:
        """The operation that makes a tensor for one other alone, if it is of that kind; else None."""
        node = self._makers.get(name)
        inner = len(self._takers.get(name, ())) == 1 and name not in self._outputs
        return node if inner and node is not None and node.op_type == kind else None

    def only_taker(self, node: Any, kind: str) -> Any:
        """The one operation that takes what another makes, if it is of that kind; else None."""
        name = node.output[0]
        takers = self._takers.get(name, [])
        return takers[0] if len(takers) == 1 and takers[0].op_type == kind and name not in self._outputs else None

    def beside(self, node: Any, number: float) -> str | None:
        """The other input of an operation with a constant; None where that has another value."""
        for constant, other in (node.input, reversed(node.input)):
            if constant in self.numbers and math.isclose(self.numbers[constant], number, rel_tol=_NEAR):
                return other
        return None


def with_gelu(model: Any) -> Any:
    """Puts the operation for x / 2 times (1 + erf(x sqrt(1 / 2))), wherever a model computes that."""
    from onnx import helper

    found = _Graph(model.graph)
    gone: set[str] = set()
    instead: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type == "Erf" and (match := _match(found, node)):
            inner, inputs, last = match
            gone |= {each.output[0] for each in inner}
            instead[last.output[0]] = helper.make_node("Gelu", [inputs], [last.output[0]], name=last.name)
    if instead:
        kept = [instead.get(node.output[0], node) for node in model.graph.node if node.output[0] not in gone]
        del model.graph.node[:]
        model.graph.node.extend(kept)
        for each in model.opset_import:
            each.version = max(each.version, OPSET)
        model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _match(graph: _Graph, erf: Any) -> tuple[list[Any], str, Any] | None:
    """The operations that go, what the GELU takes, and the operation whose output it gives; None for another sum."""
    scaled = graph.maker(erf.input[0], "Mul")
    plus_one = graph.only_taker(erf, "Add")
    if scaled is None or plus_one is None or graph.beside(plus_one, 1.0) is None:
        return None
    inputs = graph.beside(scaled, math.sqrt(0.5))
    product = graph.only_taker(plus_one, "Mul")
    if inputs is None or product is None:
        return None
    (factor,) = [name for name in product.input if name != plus_one.output[0]] or [""]
    half = graph.maker(factor, "Mul")
    if half is None or graph.beside(half, 0.5) != inputs:
        return None
    return [scaled, erf, plus_one, half], inputs, product
