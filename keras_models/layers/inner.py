"""Running a layer inside another one."""

from typing import Any

from ..types import Tensor


def run(layer: Any, inputs: Tensor, **options: Any) -> Tensor:
    """`layer(inputs, **options)` for a layer within a tower, without Keras' work around each call.

    Keras casts the inputs, follows masks and looks for symbolic tensors whenever a layer is called, which takes
    about 0.1 ms. The tower around a layer has had that done already, for the same dtype policy, and has no masks;
    over its 150 layers that would be as long as the arithmetic of one image. A layer that Keras is to run in
    another way than by its `call` is left to Keras.

    Args:
        layer: built, with the dtype policy of the layer that it is in.
        inputs: of its `call`.
        options: of its `call`.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        return layer(inputs, **options)
    return layer.call(inputs, **options)
