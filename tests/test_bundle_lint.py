"""What accelerators refuse is named by operation and layer, and image towers hold nothing of it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy import jobs
from mobileclip_keras.converters.deploy.export import Exported
from mobileclip_keras.converters.deploy.half import round_to_half
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes.lint import WHERE, Finding, lint
from mobileclip_keras.converters.deploy.runtimes.operation import Operation, TensorInfo
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of

from .small import small_model
from .support import images

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

NIGHTLY = pytest.mark.nightly
FORBIDDEN = {
    "litert": {"GATHER_ND", "ARG_MAX", "BROADCAST_TO", "SELECT", "SELECT_V2"},
    "onnx": {"GatherND", "ArgMax", "Expand", "Where"},
}
"""What no image tower holds, whatever a rule says."""
TOWERS = [
    "small_mci",
    "small_vit",
    *(pytest.param(name, marks=NIGHTLY) for name in ("small_mci_layer", "small_vit_clip")),
]
NAME = "image_encoder_3/backbone_1/stages_0_1/blocks_1/mlp_1/fc1_1/add"


def written(runtime: str, model: Any, folder: Path, recipe: str = "float32") -> tuple[list[Operation], list[Finding]]:
    """The operations of a model's only tower in a runtime's file, and what the lint says of them."""
    request = make_request(
        runtime, tuple(n for n in ("image", "text") if getattr(model, f"{n}_encoder")), quantize=recipe
    )
    (part,) = parts_of(model, request, None)
    path = folder / f"{part.name}{request.how.suffix}"
    jobs.write_part(part, request, path)
    if recipe == "fp16":
        round_to_half(request.how, path, [{"image": images(model.image_encoder.image_size, 1)}])
    found = list(request.how.code.operations(path))
    return found, lint(found, WHERE[runtime])


def test_bundles_say_what_is_refused(litert_bundle: Exported) -> None:
    towers = litert_bundle.about["towers"]
    assert towers["image"]["not_for_gpu_delegates"] == []
    found = towers["text"]["not_for_gpu_delegates"]
    kinds, layers = ({each[key] for each in found} for key in ("kind", "layer"))
    assert "EMBEDDING_LOOKUP" in kinds and "text_encoder/backbone/token_embedding" in layers
    assert not {"GATHER", *FORBIDDEN["litert"]} & kinds
    assert not any(word in each["reason"] for each in found for word in ("dimensions", "int64"))


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
@pytest.mark.parametrize("tower", TOWERS)
def test_every_kind_of_image_tower_is_clean(tower: str, runtime: str, tmp_path: Path) -> None:
    operations, found = written(runtime, small_model(tower, None, form="inference"), tmp_path)
    assert [each.to_json() for each in found] == []
    assert not FORBIDDEN[runtime] & {each.kind for each in operations}
    computed = [tensor for each in operations for tensor in (*each.inputs, *each.outputs) if not tensor.constant]
    assert max(len(tensor.shape) for tensor in computed) <= 4
    assert "INT64" not in {tensor.dtype for tensor in computed}


@pytest.mark.parametrize("tower", TOWERS)
def test_a_float16_tower_is_clean_too(tower: str, tmp_path: Path) -> None:
    """It has two casts: of what goes in, and before features are scaled to length 1."""
    operations, found = written("onnx", small_model(tower, None, form="inference"), tmp_path, "fp16")
    assert [each.to_json() for each in found] == []
    assert [each.name for each in operations if each.kind == "Cast"] == ["graph_input_cast_0", "features_in_float32"]
    assert {"FLOAT16"} == {each.outputs[0].dtype for each in operations if each.kind in ("Conv", "MatMul", "Gemm")}


def test_text_towers_compute_on_webgpu(tmp_path: Path) -> None:
    assert written("onnx", small_model(None, "small_mct", form="inference"), tmp_path)[1] == []


@pytest.mark.parametrize(("runtime", "kind"), [("litert", "ARG_MAX"), ("litert", "REVERSE_V2"), ("onnx", "ArgMax")])
def test_a_bad_operation_is_named_with_its_layer(runtime: str, kind: str, tmp_path: Path) -> None:
    """The others of the tower are not named."""
    import tensorflow as tf

    model = small_model(None, "small_transformer", form="inference")
    layer = model.text_encoder.backbone.blocks[0].mlp.fc1
    right = layer.call

    def bad(inputs: Any, **_: Any) -> Any:
        outputs = right(inputs)
        if kind == "REVERSE_V2":  # in five dimensions
            return tf.reshape(tf.reverse(tf.reshape(outputs, (1, 77, 8, 2, 4)), (2,)), (1, 77, 64))
        return outputs + tf.cast(tf.argmax(outputs, axis=1), "float32")[:, None]

    layer.call = bad
    found = [each for each in written(runtime, model, tmp_path)[1] if each.kind == kind]
    assert {each.layer for each in found} == {"text_encoder/backbone/blocks_0/mlp/fc1"}


@pytest.mark.parametrize(
    ("where", "kind", "shape", "dtype", "said"),
    [
        ("gpu_delegates", "RESHAPE", (1, 2, 3, 4, 5), "FLOAT32", "5 dimensions"),
        ("gpu_delegates", "CAST", (1, 77), "INT64", "int64"),
        ("gpu_delegates", "GATHER_ND", (1, 77), "FLOAT32", "no GPU delegate"),
        ("gpu_delegates", "ADD", (1, 77), "INT32", "int32"),
        ("gpu_delegates", "ADD", (1, 77), "FLOAT32", None),
        ("webgpu", "Reshape", (1, 2, 3, 4, 5), "FLOAT32", "5 dimensions"),
        ("webgpu", "Add", (1, 77), "INT64", "int64"),
        ("webgpu", "Slice", (1, 77), "INT32", "int32"),
        ("webgpu", "Gather", (1, 77), "INT32", None),
        ("webgpu", "Expand", (1, 77), "FLOAT32", "not every runtime"),
        ("webgpu", "Add", (1, 77), "FLOAT16", None),
    ],
)
def test_the_rules_of_the_lint(where: str, kind: str, shape: tuple[int, ...], dtype: str, said: str | None) -> None:
    tensors = (TensorInfo(0, shape, dtype),)
    found = lint([Operation(kind, f"{NAME};more", tensors, tensors)], where)
    assert len(found) == (said is not None)
    for finding in found:
        assert said in finding.reason and finding.layer == "image_encoder/backbone/stages_0/blocks_1/mlp/fc1"


def test_a_slice_that_takes_a_dimension_away_is_refused() -> None:
    whole, row = TensorInfo(0, (1, 3, 8), "FLOAT32"), TensorInfo(1, (1, 8), "FLOAT32")
    kept = TensorInfo(2, (1, 1, 8), "FLOAT32")
    operations = [Operation("STRIDED_SLICE", NAME, (whole,), (given,)) for given in (kept, row)]
    (found,) = lint(operations)
    assert found.reason == "it takes a dimension away; a RESHAPE may"


def test_casts_and_constants() -> None:
    """A cast in a layer is refused, one at a tower's end is not; numbers that lie in the file are not looked at."""
    half, single = TensorInfo(0, (1, 8), "FLOAT16"), TensorInfo(1, (1, 8), "FLOAT32")
    sizes = TensorInfo(-1, (2,), "INT64", constant=True)
    operations = [
        Operation("Cast", NAME, (half,), (single,)),
        Operation("Cast", "features_in_float32", (half,), (single,)),
        Operation("Reshape", NAME, (half, sizes), (half,)),
    ]
    (found,) = lint(operations, "webgpu")
    assert (found.kind, found.reason) == ("Cast", "it casts between float16 and float32")


def test_shapes_that_follow_from_the_batch_are_constants(tmp_path: Path) -> None:
    """So the same file takes any batch, and computes no shape."""
    from mobileclip_keras.converters.deploy.runtimes.registry import open_tower

    operations, _ = written("onnx", small_model("small_mci", None, form="inference"), tmp_path)
    assert not {"Shape", "Concat"} & {each.kind for each in operations}
    run = open_tower("onnx", tmp_path / "image.onnx", None)
    given = images(64, 5)
    alone = np.concatenate([run({"image": row[None]})["image_features"] for row in given])
    assert np.abs(run({"image": given})["image_features"] - alone).max() < 1e-6
