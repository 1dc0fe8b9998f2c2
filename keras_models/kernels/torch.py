"""What PyTorch computes in its own operations, where keras.ops passes over memory more often than PyTorch would.

Measured on two cores, s2's inference form: convolution with padding and bias in one pass, attention of views and
layer norms without Keras' casts took 10 to 15 % off the image towers and 1.5 of 5 ms off Keras' work for one text
(benchmarks/inference.py).
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import keras
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from ..types import Tensor
from . import plain, plain_norms
from .chunks import changes
from .processor import processor_name, processor_precisions
from .torch_adamw import update_by_adamw as update_by_adamw
from .torch_chunks import in_chunks as in_chunks
from .torch_precision import full_float32 as full_float32
from .torch_precision import switches as precision_switches  # noqa: F401

COMPILES_IN_SECONDS = False
"""torch.compile follows every line of Python: 26 s for s0's inference form, 60 s for its train form, on two cores."""


def gelu(inputs: Any) -> Tensor:
    """One operation in place of four passes over the largest tensors there are."""
    return torch.nn.functional.gelu(inputs)


def convolve(
    inputs: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: int = 1,
    padding: tuple[int, int] = (0, 0),
    depthwise: bool = False,
    training: bool = False,
) -> Tensor:
    """One pass: PyTorch pads and adds the bias while it convolves. Keras copies each feature map to channels first."""
    if strides > 1 and tuple(kernel.shape[:2]) == (1, 1) and not any(padding):
        # As in plain.py: oneDNN, which PyTorch uses, too.
        inputs, strides = inputs[:, ::strides, ::strides], 1
    # Transposed, a channels-last tensor is one of PyTorch's memory format of that name: nothing moves.
    images = inputs.permute(0, 3, 1, 2)
    if depthwise:
        groups, filters = inputs.shape[-1], kernel.permute(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    else:
        groups, filters = 1, kernel.permute(3, 2, 0, 1)
    if depthwise and inputs.dtype == torch.float64:
        images = images.contiguous()  # oneDNN has no float64, and PyTorch's own kernel takes 5 times as long without
    return torch.conv2d(images, filters, bias, strides, padding, 1, groups).permute(0, 2, 3, 1)


def dense(inputs: Any, kernel: Any, bias: Any = None, activation: Any = None) -> Tensor:
    """Product and bias as one operation."""
    if bias is None:
        outputs = inputs @ kernel
    else:
        outputs = bias.addmm(inputs.reshape(-1, inputs.shape[-1]), kernel)
        outputs = outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])
    return outputs if activation is None else activation(outputs)


def dense_of_vectors(inputs: Any, kernel: Any, bias: Any = None) -> Tensor:
    """The groups of plain.py as one batched product. Slices would each be an operation, and three for the gradient.

    Of one vector it is PyTorch's own product, which rounds as PyTorch's model does, and launches no more.
    """
    length, units = kernel.shape
    group = plain.group_of(length)
    if group == length or inputs.shape[0] == 1:
        return dense(inputs, kernel, bias)
    parts = inputs.reshape(-1, length // group, group).transpose(0, 1)
    outputs = (parts @ kernel.reshape(-1, group, units)).sum(0)
    return outputs if bias is None else outputs + bias


def embed(table: Any, ids: Any) -> Tensor:
    """Keras' own also takes negative ids, which there are none of, and has eleven operations more."""
    return torch.nn.functional.embedding(ids, table)


def attention(packed: Any, heads: int, causal: bool) -> Tensor:
    """The one kernel that never writes the scores to memory, given views, not copies."""
    batch, length, channels = packed.shape
    parts = (part.reshape(batch, length, heads, -1).transpose(1, 2) for part in packed.chunk(3, -1))
    query, key, value = parts
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attended.transpose(1, 2).reshape(batch, length, channels // 3)


def attention_at(inputs: Any, picks: Any, kernel: Any, bias: Any, heads: int, causal: bool) -> Tensor:
    """Of a slice of one input, in as few operations as attention over all positions takes.

    The queries of the others are computed, too, for nothing: one product less to launch saves more on a GPU than they
    cost, 1/144 of a ViT's arithmetic. A position that sees only those before it needs no mask where the others are cut
    off.
    """
    batch, _, channels = inputs.shape
    is_one = isinstance(picks, slice) and picks.start is not None and picks.stop - picks.start == 1
    if batch != 1 or not isinstance(picks, slice) or (causal and not is_one):
        return plain.attention_at(inputs, picks, kernel, bias, heads, causal)
    query, key, value = dense(inputs[:, : picks.stop] if causal else inputs, kernel, bias).chunk(3, -1)
    parts = (part.reshape(1, part.shape[1], heads, -1).transpose(1, 2) for part in (query[:, picks], key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(*parts)
    return attended.transpose(1, 2).reshape(1, -1, channels)


def end_of_text(tokens: Any) -> Tensor:
    """PyTorch's argmax is the first of several, and one operation."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    return (place == tokens.argmax(-1, keepdim=True)).float()


def only_end(tokens: Any) -> int | None:
    """The one number is looked up, for one text, in place of a dozen operations. A program that is compiled cannot."""
    if tokens.shape[0] != 1 or tokens.device.type == "meta" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if tokens.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None
    return int(tokens.argmax())


def with_class_token(patches: Any, class_token: Any, positions: Any, has_position: bool) -> Tensor:
    """Two operations in place of four: PyTorch repeats the class token without a copy."""
    first = class_token.expand(patches.shape[0], -1, -1)
    if has_position:
        return torch.cat([first, patches], 1) + positions
    return torch.cat([first, patches + positions], 1)


def layer_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> Tensor:
    """One operation, where all three are of one dtype."""
    if not inputs.dtype == gamma.dtype == beta.dtype:
        return plain_norms.layer_norm(inputs, gamma, beta, epsilon)
    return torch.layer_norm(inputs, gamma.shape, gamma, beta, epsilon)


def batch_norm_in_training(
    inputs: Any, gamma: Any, beta: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One operation forward and one backward, where plain.py takes some 60 passes over a feature map."""
    if inputs.numel() == inputs.shape[-1]:  # of one number PyTorch makes a variance that is not a number
        return plain_norms.batch_norm_in_training(inputs, gamma, beta, mean, variance, momentum, epsilon)
    moved = mean.detach().clone(), variance.detach().clone()  # PyTorch moves them in place
    gamma, beta = gamma.to(mean.dtype), beta.to(mean.dtype)
    switch = torch.backends.cudnn.enabled
    outputs = torch.batch_norm(inputs.movedim(-1, 1), gamma, beta, *moved, True, 1 - momentum, epsilon, switch)
    return outputs.movedim(1, -1), *moved


def sum_of_batch_norms_in_training(
    inputs: Any,
    signs: Any,
    factors: Any,
    gammas: Any,
    betas: Any,
    means: Any,
    variances: Any,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One after the other: each is one operation."""
    total: Any = None
    moved: list[list[Tensor]] = []
    norms = zip(signs, factors, gammas, betas, means, variances, strict=True)
    for sign, factor, gamma, beta, mean, variance in norms:
        seen = inputs if factor is None else inputs * factor.to(inputs.dtype)
        outputs, *averages = batch_norm_in_training(seen, gamma, beta, mean, variance, momentum, epsilon)
        total = torch.add(total, outputs, alpha=sign) if moved else outputs if sign == 1 else -outputs
        moved.append(averages)
    return total, [mean for mean, _ in moved], [variance for _, variance in moved]


def recomputed(run: Any, weights: Any, state: Any, inputs: Any) -> tuple[Tensor, dict[int, Tensor]]:
    """PyTorch's own checkpoint. What is in memory of the state then is what comes after the step, so it is copied."""
    before, changed = [*state], dict[int, Tensor]()

    def call(inputs: Any, *weights: Any) -> Any:
        results, after = run([*weights], before, inputs)
        if not changed:
            changed.update({place: value.detach() for place, value in changes(before, after).items()})
        return results

    results = checkpoint(call, inputs, *weights, use_reentrant=False)
    for place in changed:
        before[place] = before[place].clone()
    return results, changed


def without_gradients() -> AbstractContextManager[Any]:
    """Else PyTorch keeps what each layer was given: 5.6 GiB for 16 images in s0's train form and float64."""
    return torch.no_grad()


def device_name() -> str:
    device = keras.ops.zeros(()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() if device.type == "cpu" else device.type


def half_precisions() -> tuple[str, ...]:
    device = keras.ops.zeros(()).device
    if device.type == "cpu":
        return processor_precisions()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ("float16",)
    return ("bfloat16", "float16")


@cache
def can_compile() -> bool:
    """Whether torch.compile follows Keras' own code as one program, which the older PyTorch versions do not.

    On CPUs a C++ compiler is needed, too.
    """
    on_cpu = keras.ops.zeros(()).device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return False
    try:  # every operation of Keras looks through its arguments, which is what cannot be followed
        torch.compile(keras.ops.sum, backend="eager", fullgraph=True)(keras.ops.zeros((1,)))
    except Exception:  # the classes are PyTorch's private ones, and change from version to version
        return False
    return True


def compiled(
    model: keras.Model, thorough: bool = False
) -> tuple[str, Callable[[dict[str, np.ndarray]], dict[str, Any]]] | None:
    """By torch.compile, as Keras' own `predict` runs layer by layer on PyTorch. None where `can_compile` says no.

    "compile" is what people run, by Inductor. Where not thorough, "graph" is the same program before Inductor: what
    torch.compile makes of the model, run by PyTorch's own kernels (its "aot_eager"). For s0 that takes 26 s on two
    cores, and Inductor 94.
    """
    if not can_compile():
        return None
    torch.compiler.reset()  # after a few models of one class, PyTorch would no longer compile the next
    program = torch.compile(model, backend="inductor" if thorough else "aot_eager", fullgraph=True)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        tensors = {name: keras.ops.convert_to_tensor(array) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = program(tensors, training=False)
            return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}

    return "compile" if thorough else "graph", run


def is_on_host(variable: keras.Variable) -> bool:
    return variable.value.device.type == "cpu"


def tensor(array: np.ndarray) -> Tensor:
    """Keras' own function copies the array twice."""
    return torch.from_numpy(array)


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    value, given = variable.value, tensor(array)
    if value.is_contiguous():
        value.data = given
    else:
        with torch.no_grad():
            value.copy_(given)  # which keeps what `lay_out_as_convolved` laid out


def lay_out_as_convolved(kernel: keras.Variable, depthwise: bool) -> None:
    """Filter by filter. Else PyTorch copies the kernel each time: s0's image tower took 12 % longer for one image."""
    data = kernel.value.data
    if depthwise:
        kernel.value.data = data.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    else:
        filters = data.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        kernel.value.data = filters.permute(2, 3, 1, 0)


def variables_changed(model: keras.Model) -> None:
    """Each layer shows PyTorch its variables as parameters, those of its sublayers too, and keeps the old ones."""
    for layer in model.modules():
        parameters = getattr(layer, "torch_params", None)
        if parameters is not None:
            parameters.clear()
            parameters.update({variable.path: variable.value for variable in layer.variables})


def weight(variable: Any) -> Tensor:
    """Keras' own conversion looks for symbolic tensors and compares devices: 4 us for each weight of each call."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def view(variable: keras.Variable) -> np.ndarray | None:
    value = variable.value
    if value.device.type != "cpu" or value.dtype == torch.bfloat16:
        return None
    return value.detach().numpy()
