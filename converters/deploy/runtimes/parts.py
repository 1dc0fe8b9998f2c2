"""What is exported of a model: functions of named arrays, each of which becomes a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras import ops

from ....keras_models import kernels
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ..request import Request

if TYPE_CHECKING:
    from ....keras_models.models.model import MobileClipModel

Shape = tuple[int | None, ...]
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes:
        name: its stem: "image", "text" or "text_lookup".
        function: from tensors by name to tensors by name.
        inputs: shape behind the batch, and dtype, of each input.
        outputs: shape behind the batch, and dtype, of each output.
        variables: Keras' variables that the function reads.
    """

    name: str
    function: Callable[[Tensors], Tensors]
    inputs: Mapping[str, tuple[Shape, str]]
    outputs: Mapping[str, tuple[Shape, str]]
    variables: list[Any]


def parts_of(model: "MobileClipModel", request: Request, preprocessor: ImagePreprocessor | None) -> list[Part]:
    """The files that a request asks for.

    Args:
        model: in its inference form.
        request: what is asked for.
        preprocessor: of the model's images; None where there is no image tower.
    """
    found = []
    if "image" in request.towers:
        found.append(_image(model, request, preprocessor))
    if "text" in request.towers:
        found += _text_in_two(model) if request.embed_outside else [_text(model)]
    return found


def _image(model: Any, request: Request, preprocessor: ImagePreprocessor | None) -> Part:
    tower = model.image_encoder
    outputs = {"image_features": ((tower.embed_dim,), "float32")}
    if not request.preprocess:
        size = tower.image_size

        def encode(given: Tensors) -> Tensors:
            return {"image_features": kernels.unit_length(tower(given["image"], training=False))}

        return Part("image", encode, {"image": ((size, size, 3), "float32")}, outputs, tower.variables)
    assert preprocessor is not None
    layer = preprocessor.as_layer()

    def encode_pixels(given: Tensors) -> Tensors:
        return {"image_features": kernels.unit_length(tower(layer(given["pixels"]), training=False))}

    height, width = request.pixels or (None, None)
    return Part("image", encode_pixels, {"pixels": ((height, width, 3), "uint8")}, outputs, tower.variables)


def _text(model: Any) -> Part:
    tower = model.text_encoder

    def encode(given: Tensors) -> Tensors:
        return {"text_features": kernels.unit_length(tower(given["tokens"], training=False))}

    inputs: dict[str, tuple[Shape, str]] = {"tokens": ((tower.context_length,), "int32")}
    return Part("text", encode, inputs, {"text_features": ((tower.embed_dim,), "float32")}, tower.variables)


def _text_in_two(model: Any) -> list[Part]:
    """The look-up of ids, which many delegates do not take, and the rest, which has floats alone."""
    tower = model.text_encoder
    backbone, length = tower.backbone, tower.context_length

    def look_up(given: Tensors) -> Tensors:
        from ....keras_models.kernels import end_of_text

        return {"embeddings": backbone.embed(given["tokens"]), "end": end_of_text(given["tokens"])}

    def encode(given: Tensors) -> Tensors:
        states = backbone.encode(given["embeddings"], ops.convert_to_tensor(given["end"]), training=False)
        return {"text_features": kernels.unit_length(tower.projection(states))}

    between: dict[str, tuple[Shape, str]] = {
        "embeddings": ((length, backbone.config.width), "float32"),
        "end": ((length,), "float32"),
    }
    table = [*backbone.token_embedding.variables, backbone.positional_embedding]
    rest = [variable for variable in tower.variables if all(variable is not each for each in table)]
    return [
        Part("text_lookup", look_up, {"tokens": ((length,), "int32")}, between, table),
        Part("text", encode, between, {"text_features": ((tower.embed_dim,), "float32")}, rest),
    ]
