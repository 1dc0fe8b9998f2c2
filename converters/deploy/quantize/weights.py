"""The weights of a model that can be rounded, with the layer that each belongs to."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ....keras_models.blocks.attention import SelfAttention
from ....keras_models.formulation import TENSORFLOW, Formulation, parts_of_depthwise
from ....keras_models.kernels.plain import group_of
from ....keras_models.layers.convolution import Convolution
from ....keras_models.layers.dense import VectorLinear
from ....keras_models.layers.paths import layers_by_path
from ....keras_models.models.image_encoder import ImageProjectionHead
from ....keras_models.store.variables import variables_by_name
from .rounding import SMALLEST, Axes

KINDS = ("convolution", "depthwise", "dense", "embedding")
NARROW = 128
"""Numbers in a row of a table below which all rows have one scale, and factors beside it: `row_scales` says why."""


@dataclass(frozen=True)
class Weight:
    """A kernel, or a table of embeddings.

    Attributes:
        name: its path below the model.
        kind: one of KINDS.
        layer: that computes with it.
        variable: its numbers.
        bias: what the layer adds to each channel; None for nothing. Of a table, the embeddings of positions, which are
            added to what it gives.
        channels: the axes that count output channels; of a table, its rows, or nothing where a scale for each row
            would take much of what its levels save: then its rows have factors.
        group: how many inputs have a scale of their own for each channel, because the layer computes with as many of
            them at once, and a file holds as many together; None for all.
        parts: rows and columns of a depthwise kernel that a runtime computes apart, and that have scales of their own;
            empty for a kernel that is one.
        attention: that computes with the layer's weight itself, and does not call it, where few positions are wanted;
            None for a layer that is always called.
    """

    name: str
    kind: str
    layer: Any
    variable: keras.Variable
    bias: keras.Variable | None
    channels: Axes
    group: int | None = None
    parts: tuple[tuple[slice, slice], ...] = ()
    attention: Any = None

    @property
    def tower(self) -> str:
        """ "image" or "text"."""
        return self.name.split("_", 1)[0]

    @property
    def layer_name(self) -> str:
        """The layer's path."""
        return self.name.rsplit("/", 1)[0]

    def value(self) -> np.ndarray:
        """Its numbers."""
        return np.asarray(keras.ops.convert_to_numpy(self.variable))

    def bias_value(self) -> np.ndarray | None:
        """The bias' numbers; None without one."""
        return None if self.bias is None else np.asarray(keras.ops.convert_to_numpy(self.bias))


def weights_of(model: Any, formulation: Formulation = TENSORFLOW) -> list[Weight]:
    """The weights of a MobileClipModel in its inference form, large ones alone, in the order of computation.

    Args:
        model: of the weights.
        formulation: of the runtime that will compute with them.
    """
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    found = {}
    for encoder in filter(None, (model.image_encoder, model.text_encoder)):
        attentions: dict[int, SelfAttention] = {}
        for _, layer in layers_by_path(encoder):
            if isinstance(layer, SelfAttention):
                attentions[id(layer.qkv)] = layer
            about = described(layer)
            if about is None:
                continue
            kind, variable, channels = about
            if id(variable) in names and np.prod(variable.shape) >= SMALLEST:
                bias = encoder.backbone.positional_embedding if kind == "embedding" else getattr(layer, "bias", None)
                vectors = isinstance(layer, VectorLinear | ImageProjectionHead)
                group = group_of(variable.shape[0]) if vectors else None
                parts = _parts(layer, formulation) if kind == "depthwise" else ()
                attention = attentions.get(id(layer))
                found[id(variable)] = Weight(
                    names[id(variable)], kind, layer, variable, bias, channels, group, parts, attention
                )
    return [found[each] for each in names if each in found]


def _parts(layer: Convolution, formulation: Formulation) -> tuple[tuple[slice, slice], ...]:
    rows, columns = layer.kernel_size
    apart = parts_of_depthwise(formulation, (rows, columns), layer.strides, layer.margins)
    return tuple((part[0], part[1]) for part in apart)


def described(layer: Any) -> tuple[str, keras.Variable, Axes] | None:
    """Kind, variable and channels of a layer's weight; None for a layer without one."""
    if isinstance(layer, Convolution):
        return ("depthwise", layer.kernel, (2, 3)) if layer.depthwise else ("convolution", layer.kernel, (3,))
    if isinstance(layer, keras.layers.Dense | ImageProjectionHead):
        return "dense", layer.kernel, (1,)
    if isinstance(layer, keras.layers.Embedding):
        wide = layer.embeddings.shape[1] >= NARROW
        return "embedding", layer.embeddings, (0,) if wide else ()
    return None
