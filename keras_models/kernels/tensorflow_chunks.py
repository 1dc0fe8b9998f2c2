"""`plain.in_chunks` on TensorFlow: two loops, the second of which runs each chunk again for the gradient."""

from typing import Any

import tensorflow as tf

from ..types import Tensor
from .chunks import changes


def in_chunks(run: Any, weights: Any, state: Any, rows: Any, size: int) -> tuple[Tensor, dict[int, Tensor]]:
    """The graph holds the function once for each of the two loops, however many chunks there are. A graph of `fit` does
    not know how many rows it will be given."""
    # Read now: a variable would be read again, with the value that it has then.
    weights, state = ([tf.convert_to_tensor(value) for value in values] for values in (weights, state))
    chunk = _Chunk(run, len(weights), [*weights, *state], rows)
    total = tf.shape(rows)[0]
    count = -(-total // size)

    def places(index: Any) -> Any:
        return tf.range(index, total, count)[:, None]

    @tf.custom_gradient
    def whole(*values: Any) -> tuple[Any, Any]:
        def forward(index: Any, results: Any, moving: Any, seen: Any) -> Any:
            seen = [array.write(index, value) for array, value in zip(seen, moving, strict=True)]
            part, moving = chunk(rows[index::count], chunk.values(values, moving))
            return index + 1, tf.tensor_scatter_nd_update(results, places(index), part), moving, seen

        results = tf.zeros((total, *chunk.width), chunk.dtype)
        moving = [values[place] for place in chunk.changing]
        seen = [tf.TensorArray(v.dtype, count, element_shape=v.shape, clear_after_read=False) for v in moving]
        _, results, moving, seen = _loop(count, forward, (results, moving, seen))

        def gradient(upstream: Any, *_: Any) -> list[Any]:
            def backward(index: Any, sums: Any) -> Any:
                then = chunk.values(values, [array.read(index) for array in seen])
                trained = then[: chunk.split]
                with tf.GradientTape() as tape:
                    tape.watch(trained)
                    part, _ = chunk(rows[index::count], [*trained, *then[chunk.split :]])
                own = tape.gradient(part, trained, upstream[index::count], tf.UnconnectedGradients.ZERO)
                return index + 1, [total + tf.convert_to_tensor(each) for total, each in zip(sums, own, strict=True)]

            _, sums = _loop(count, backward, ([tf.zeros_like(value) for value in values[: chunk.split]],))
            return [*sums, *[None] * (len(values) - chunk.split)]

        return (results, *moving), gradient

    results, *moving = whole(*weights, *state)
    return results, {place - chunk.split: value for place, value in zip(chunk.changing, moving, strict=True)}


def _loop(count: Any, body: Any, start: tuple[Any, ...]) -> Any:
    return tf.while_loop(lambda index, *_: index < count, body, (tf.constant(0), *start), parallel_iterations=1)


class _Chunk:
    """The function over one chunk. In a graph it is traced once, for any number of rows.

    Attributes:
        split: the number of weights. What follows them in a list of values is state.
        changing: the places, in such a list, of what the function changes.
        width: the shape of one row of the results.
        dtype: that of the results.
    """

    def __init__(self, run: Any, split: int, values: list[Any], rows: Any) -> None:
        self.split = split
        self._run = run
        self.changing: list[int] = []
        if tf.executing_eagerly():
            self._call: Any = self._changed
            part, _ = self._changed(rows[:1], *values)
        else:
            specs = [tf.TensorSpec(value.shape, value.dtype) for value in values]
            signature = [tf.TensorSpec((None, *rows.shape[1:]), rows.dtype), *specs]
            self._call = tf.function(self._changed, input_signature=signature, autograph=False)
            part, _ = self._call.get_concrete_function().structured_outputs
        self.width, self.dtype = part.shape[1:], part.dtype

    def __call__(self, rows: Any, values: list[Any]) -> Any:
        return self._call(rows, *values)

    def values(self, values: Any, moving: Any) -> list[Any]:
        """All values, with what changes as it is now."""
        now = [*values]
        for place, value in zip(self.changing, moving, strict=True):
            now[place] = value
        return now

    def _changed(self, rows: Any, *values: Any) -> tuple[Any, list[Any]]:
        """The results, and the new values of what changes."""
        results, after = self._run([*values[: self.split]], [*values[self.split :]], rows)
        changed = changes([*values[self.split :]], after)
        self.changing = [self.split + place for place in changed]
        return results, [tf.stop_gradient(value) for value in changed.values()]
