"""What layers compute: every operation in keras.ops, and what the backend in use does faster.

`plain.py` and `plain_norms.py` say what each operation is, `plain_runtime.py` what there is beside arithmetic.
`tensorflow.py`, `jax.py` and `torch.py` hold only what differs on that backend, and why. Layers call the operations of
this package and never ask which backend they run on.
"""

import importlib
from typing import Any, TypeVar

import keras

from . import plain, plain_norms, plain_runtime

T = TypeVar("T")

BACKENDS = ("tensorflow", "jax", "torch")

_name = keras.backend.backend()
_backend: Any = importlib.import_module(f".{_name}", __name__) if _name in BACKENDS else plain


def _fastest(operation: T) -> T:
    """The backend's own way of an operation, where it has one."""
    return getattr(_backend, operation.__name__, operation)  # type: ignore[attr-defined]


attention = _fastest(plain.attention)
attention_at = _fastest(plain.attention_at)
at = _fastest(plain.at)
batch_moments = _fastest(plain_norms.batch_moments)
batch_norm = _fastest(plain_norms.batch_norm)
batch_norm_in_training = _fastest(plain_norms.batch_norm_in_training)
convolve = _fastest(plain.convolve)
dense = _fastest(plain.dense)
dense_of_vectors = _fastest(plain.dense_of_vectors)
embed = _fastest(plain.embed)
end_of_text = _fastest(plain.end_of_text)
exp = _fastest(plain.exp)
gelu = _fastest(plain.gelu)
group_of = plain.group_of
in_chunks = _fastest(plain.in_chunks)
layer_norm = _fastest(plain_norms.layer_norm)
mean_over_positions = _fastest(plain.mean_over_positions)
only_end = _fastest(plain.only_end)
recomputed = _fastest(plain.recomputed)
sum_of_batch_norms_in_training = _fastest(plain_norms.sum_of_batch_norms_in_training)
unit_length = _fastest(plain.unit_length)
with_class_token = _fastest(plain.with_class_token)

compiled = _fastest(plain_runtime.compiled)
copy_value = _fastest(plain_runtime.copy_value)
device_name = _fastest(plain_runtime.device_name)
export_saved_model = _fastest(plain_runtime.export_saved_model)
float64_enabled = _fastest(plain_runtime.float64_enabled)
float64_is_kept = _fastest(plain_runtime.float64_is_kept)
full_float32 = _fastest(plain_runtime.full_float32)
half_precisions = _fastest(plain_runtime.half_precisions)
hand_over = _fastest(plain_runtime.hand_over)
is_on_host = _fastest(plain_runtime.is_on_host)
lay_out_as_convolved = _fastest(plain_runtime.lay_out_as_convolved)
precision_switches = _fastest(plain_runtime.precision_switches)
short_variable_names = _fastest(plain_runtime.short_variable_names)
tensor = _fastest(plain_runtime.tensor)
update_by_adamw = _fastest(plain_runtime.update_by_adamw)
variables_changed = _fastest(plain_runtime.variables_changed)
view = _fastest(plain_runtime.view)
weight = _fastest(plain_runtime.weight)
without_gradients = _fastest(plain_runtime.without_gradients)

COMPILES_EACH_OPERATION: bool = getattr(_backend, "COMPILES_EACH_OPERATION", plain_runtime.COMPILES_EACH_OPERATION)
COMPILES_IN_SECONDS: bool = getattr(_backend, "COMPILES_IN_SECONDS", plain_runtime.COMPILES_IN_SECONDS)
XLA_IS_FAST: bool = getattr(_backend, "XLA_IS_FAST", plain_runtime.XLA_IS_FAST)
