"""LiteRT files as they are written: what is equal stands there once, and weights where the schema wants them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.converters.deploy.runtimes.litert_model import read_model, write_model

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

CHANNELS, TENSORS = 1000, 8


def model_of(zero_points: list[np.ndarray], data: list[bytes]) -> Any:
    """A model of rounded weights alone."""
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    for number, points in enumerate(zero_points):
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = f"weight_{number}", number
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.full(CHANNELS, 1 + number, np.float32)
        tensor.quantization.zeroPoint = points
        graph.tensors.append(tensor)
    model = schema.ModelT()
    model.subgraphs, model.operatorCodes, model.buffers = [graph], [], []
    for each in data:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(each, np.uint8)
        model.buffers.append(buffer)
    return model


def test_equal_vectors_are_written_once_and_read_as_they_were(tmp_path: Path) -> None:
    points = [np.zeros(CHANNELS, np.int64) for _ in range(TENSORS - 1)] + [np.arange(CHANNELS)]
    data = [bytes([number + 1]) * (37 + number) for number in range(TENSORS)]
    file = tmp_path / "rounded.tflite"
    write_model(model_of(points, data), file)
    scales, two_sets_of_points = 4 * CHANNELS * TENSORS, 2 * 8 * CHANNELS
    assert scales + two_sets_of_points < file.stat().st_size < scales + two_sets_of_points + 200 * TENSORS
    found = read_model(file)
    for number, tensor in enumerate(found.subgraphs[0].tensors):
        assert np.array_equal(tensor.quantization.zeroPoint, points[number])
        assert np.array_equal(tensor.quantization.scale, np.full(CHANNELS, 1 + number))
        assert bytes(found.buffers[tensor.buffer].data) == data[number]


def test_the_numbers_of_weights_lie_where_the_schema_wants_them(tmp_path: Path) -> None:
    """At multiples of 16 bytes, whatever stands before them."""
    data = [bytes([number + 1]) * (16 + number) for number in range(20)]
    file = tmp_path / "rounded.tflite"
    write_model(model_of([np.zeros(CHANNELS, np.int64)] * len(data), data), file)
    content = file.read_bytes()
    assert content[4:8] == b"TFL3"
    assert [content.index(each) % 16 for each in data] == [0] * len(data)
