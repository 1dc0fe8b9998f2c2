"""A layer called as a function of its variables, so that a backend may compute it more than once."""

from typing import Any, ClassVar

import keras

from .. import kernels
from ..types import Tensor
from .base import called_by_keras_again


class PureCall(keras.layers.Layer):
    """What another layer makes of its inputs, in a way that may run it several times.

    What it changes, such as the averages of a batch norm or the state of a generator, changes once, when all is done.

    Made for one call, as it reads variables that no autocasting may touch: `autocast=False` sees to that.

    Args:
        layer: a built layer from one tensor to one.
    """

    REFUSED: ClassVar[str]
    """What does not go with layers that add losses, and why."""

    def __init__(self, layer: Any) -> None:
        super().__init__(autocast=False, dtype=layer.dtype_policy)
        self._layer = lambda: layer  # hidden from Keras, which would track it as a part of this layer
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None, **options: Any) -> Tensor:
        layer = self._layer()
        # Not the layer's own lists: they know nothing of a part that is trained within a frozen layer.
        trained = [variable for variable in layer.variables if variable.trainable]
        others = [variable for variable in layer.variables if not variable.trainable]
        given = {name: value for name, value in options.items() if keras.ops.is_tensor(value)}

        def run(weights: list[Tensor], state: list[Tensor], inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
            """Outputs, and the state afterwards. What did not change is the same object."""
            beside = dict(zip(given, state[len(others) :], strict=True))
            mapping = [*zip(trained, weights, strict=True), *zip(others, state[: len(others)], strict=True)]
            with keras.StatelessScope(mapping, collect_losses=True) as scope, called_by_keras_again():
                outputs = layer(inputs, training=training, **{**options, **beside})
                if scope.losses:
                    raise ValueError(self.REFUSED)
                return outputs, [*map(scope.get_current_value, others), *beside.values()]

        weights, state = ([keras.ops.convert_to_tensor(v) for v in variables] for variables in (trained, others))
        outputs, changed = self.compute(run, weights, [*state, *given.values()], inputs)
        for place, value in changed.items():
            others[place].assign(value)
        return outputs

    def compute(
        self, run: Any, weights: list[Tensor], state: list[Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The outputs, and the last state, by place, of what changed. Runs `run`, which is as `kernels.plain.Run`."""
        raise NotImplementedError

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """A `keras.RematScope` around it has nothing to add."""
        return layer_call


class Recomputed(PureCall):
    """A layer of whose call only inputs and outputs are kept. It runs again for the gradient: less memory, more time.

    Source: arXiv 1604.06174.
    """

    REFUSED = (
        "remat does not go with layers that add losses of their own, such as activity regularizers: they would be "
        "added twice."
    )

    def compute(
        self, run: Any, weights: list[Tensor], state: list[Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        return kernels.recomputed(run, weights, state, inputs)
