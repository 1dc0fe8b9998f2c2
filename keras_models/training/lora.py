"""LoRA (arXiv 2106.09685) for a whole model: adapters beside the dense layers of attention and feed-forward."""

from pathlib import Path
from typing import Any

from ..blocks.attention import SelfAttention
from ..blocks.feed_forward import ConvFeedForward, FeedForward
from ..kernels.memory import quick_collections
from ..layers.adapters import adapters_of, has_adapters, is_quantized, merged_weights, plain_variables
from ..layers.paths import layers_by_path
from ..store.variables import logit_variables
from .adapter_file import Adapter, LoraError, read_adapters, write_adapters
from .freezing import set_flags, trained_parts_changed


def enable_lora(model: Any, rank: int, alpha: float | None = None) -> None:
    """Freezes a model and gives its layers of attention and feed-forward adapters, which alone are trained.

    Raises:
        LoraError: for another form than train, int8 weights, adapters that are there, no such layers, or a rank that is
            no whole number from 1 to the shorter side of the smallest matrix.
    """
    check_adaptable(model)
    layers = list(adaptable_layers(model).values())
    if not layers:
        raise LoraError("LoRA adapts layers of attention and feed-forward, and this model has none.")
    largest = min(min(plain_variables(layer)[0].shape) for layer in layers)
    if type(rank) is not int or not 1 <= rank <= largest:
        raise LoraError(
            f"The rank of LoRA adapters is a whole number from 1 to {largest} for this model; got {rank!r}."
        )
    _add(model, dict.fromkeys(map(id, layers), rank), alpha)


def save_adapters(model: Any, path: Path, overwrite: bool) -> None:
    """Writes the adapters of a model, and nothing else, to a safetensors file.

    Raises:
        LoraError: for a model without adapters.
        OutputError: where the file cannot be written, or is there.
    """
    found = {
        name: Adapter.of(adapters_of(layer), layer.lora_alpha)
        for name, layer in layers_by_path(model)
        if has_adapters(layer)
    }
    if not found:
        raise LoraError("This model has no LoRA adapters to save. Call enable_lora first.")
    write_adapters(found, model.variant, path, overwrite)


def load_adapters(model: Any, path: Path) -> None:
    """Gives a model the adapters of a file. Nothing of the model changes unless all of them fit.

    Raises:
        LoraError: where the file is missing, damaged, of another kind or for another model.
    """
    adapters = read_adapters(path, model.variant)
    layers = dict(layers_by_path(model))
    present = {name for name, layer in layers.items() if has_adapters(layer)}
    if not present:
        check_adaptable(model)
    for name, adapter in adapters.items():
        adapter.check(name, plain_variables(layers[name])[0] if name in adaptable_paths(layers) else None, path)
    ranks = {name: layers[name].lora_rank for name in present}
    if present and ranks != {name: adapter.rank for name, adapter in adapters.items()}:
        raise LoraError(
            f"The model has adapters of other layers or of another rank than {path}; call merge_lora first."
        )
    if not present:
        _add(model, {id(layers[name]): adapter.rank for name, adapter in adapters.items()}, None)
    for name, adapter in adapters.items():
        for variable, value in zip(adapters_of(layers[name]), (adapter.a, adapter.b), strict=True):
            variable.assign(value)
        layers[name].lora_alpha = adapter.alpha


def merge_adapters(model: Any) -> None:
    """Adds the adapters to the matrices that they are for, in float64, and takes them away.

    Raises:
        LoraError: for a model without adapters.
    """
    adapted = [layer for _, layer in layers_by_path(model) if has_adapters(layer)]
    if not adapted:
        raise LoraError("This model has no LoRA adapters to merge.")
    with quick_collections():
        for layer in adapted:
            merged = merged_weights(layer)
            for name in ("a", "b"):
                delattr(layer, f"lora_{layer.MATRIX}_{name}")
            layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
            layer.load_own_variables(merged)
    set_flags(model, True)
    trained_parts_changed(model)


def adaptable_layers(model: Any) -> dict[str, Any]:
    """The dense layers of attention and feed-forward by path, in both towers."""
    wanted: set[int] = set()
    layers = dict(layers_by_path(model))
    for layer in layers.values():
        if isinstance(layer, SelfAttention):
            wanted |= {id(layer.qkv), id(layer.proj)}
        elif isinstance(layer, FeedForward | ConvFeedForward):
            wanted |= {id(layer.fc1), id(layer.fc2)}
    return {path: layer for path, layer in layers.items() if id(layer) in wanted}


def adaptable_paths(layers: dict[str, Any]) -> set[str]:
    """The paths of the layers that can have adapters at all."""
    return {path for path, layer in layers.items() if hasattr(layer, "MATRIX")}


def check_adaptable(model: Any) -> None:
    """Raises LoraError for a model that adapters would be of no use to."""
    layers = [layer for _, layer in layers_by_path(model)]
    if any(map(has_adapters, layers)):
        raise LoraError("This model has LoRA adapters already. Call merge_lora first.")
    if any(map(is_quantized, layers)):
        raise LoraError("LoRA needs weights that are not quantised. Call enable_lora first, and quantize afterwards.")
    if model.form != "train":
        raise LoraError(
            f'LoRA needs the train form, and this model is in the {model.form} form. Load it with form="train".'
        )


def _add(model: Any, ranks: dict[int, int], alpha: float | None) -> None:
    """Freezes a model and adds adapters to layers, which are given by identity, each with its rank."""
    # The flags of the model and of its towers stay True: Keras asks no further where one of those is False.
    set_flags(model, True)
    for tower in filter(None, (model.image_encoder, model.text_encoder)):
        tower.backbone.trainable = tower.projection.trainable = False
    for variable in logit_variables(model).values():
        variable.trainable = False
    for _, layer in list(layers_by_path(model)):
        if id(layer) in ranks:
            layer.trainable = True
            layer.enable_lora(ranks[id(layer)], lora_alpha=alpha)
            for variable in plain_variables(layer):
                variable.trainable = False
    trained_parts_changed(model)
