"""Finding operations of an ONNX graph that compute together what one operation computes, and putting that instead."""

import math
from typing import Any

import numpy as np

_NEAR = 1e-6
"""Of a constant, relative."""


class Graph:
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

    def maker_of_any(self, name: str, kind: str) -> Any:
        """The operation that makes a tensor, whoever else takes it, if it is of that kind; else None."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def is_taken_by(self, name: str, takers: list[Any]) -> bool:
        """Whether a tensor goes to these operations and nowhere else."""
        outside = [node for node in self._takers.get(name, []) if not any(node is taker for taker in takers)]
        return not outside and name not in self._outputs


def replaced(model: Any, gone: set[str], instead: dict[str, Any], opset: int, ir_version: int) -> None:
    """Puts operations into a model, in place.

    Args:
        model: to be changed.
        gone: the first outputs of operations that go.
        instead: by the first output of an operation, the one that gives this output from now on.
        opset: the first that has the new operations.
        ir_version: the first that has this opset.
    """
    kept = [instead.get(node.output[0], node) for node in model.graph.node if node.output[0] not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for each in model.opset_import:
        each.version = max(each.version, opset)
    model.ir_version = max(model.ir_version, ir_version)
