"""A pair of PyTorch towers that takes and gives NumPy arrays in the shapes of the Keras models."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["float32", "float64"]

MAX_LOGIT_SCALE = 100.0


class TorchReference:
    """A MobileCLIP model in PyTorch, for comparisons; made by `build_reference` and never changed afterwards.

    Either tower may be absent; its methods then raise ValueError. Outputs have the precision of the model.
    """

    def __init__(
        self,
        image: "nn.Module | None",
        text: "nn.Module | None",
        log_scale: float | None,
        logit_bias: float | None = None,
    ) -> None:
        self._image = image
        self._text = text
        self._log_scale = log_scale
        self.logit_bias = logit_bias
        """What is added to the logits; None where there is nothing."""

    @property
    def has_image(self) -> bool:
        """Whether there is an image tower."""
        return self._image is not None

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return self._text is not None

    @property
    def image_tower(self) -> "nn.Module":
        """The image tower itself: (n, 3, height, width) to (n, embed_dim)."""
        return _present(self._image, "image")

    @property
    def text_tower(self) -> "nn.Module":
        """The text tower itself: int64 (n, 77) to (n, embed_dim)."""
        return _present(self._text, "text")

    def parameters(self) -> int:
        """How many numbers the towers are made of."""
        towers = [tower for tower in (self._image, self._text) if tower is not None]
        return sum(parameter.numel() for tower in towers for parameter in tower.parameters())

    def encode_image(self, images: np.ndarray, batch_size: int = 8, channels_last: bool = False) -> np.ndarray:
        """Preprocessed images, (n, height, width, 3), to features before normalisation, (n, embed_dim)."""
        model = _present(self._image, "image")
        if channels_last:
            model = _copy(model, channels_last=True)
        return _in_batches(model, _to_nchw(images), batch_size, channels_last)

    def encode_text(self, tokens: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Token ids, integers (n, 77), to features before normalisation, (n, embed_dim)."""
        return _in_batches(_present(self._text, "text"), tokens.astype(np.int64), batch_size)

    def logit_scale(self) -> float:
        """The factor of the cosine similarities: e to the stored value, at most 100."""
        if self._log_scale is None:
            raise ValueError("this checkpoint has no logit scale")
        return min(math.exp(self._log_scale), MAX_LOGIT_SCALE)

    def image_stages(self, images: np.ndarray, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """What each part of the image tower gives, in the order of computation.

        Args:
            images: (n, height, width, 3), preprocessed.
            rows: the images whose stages are kept, None for all. Features are kept of all.

        Returns:
            mci towers: "stem", "stage_0" … "stage_3" (mci3 and mci4 have a "stage_4"), "final_conv", each
            (n, height, width, channels).
            ViT towers: "embeddings" (what the first block is given: class token and positions added, and in
            vit_l14 normalised), "block_0" …, "norm", each (n, tokens, width).
            All: "features", (n, embed_dim), as `encode_image`.
        """
        model = _present(self._image, "image")
        if hasattr(model, "stages"):
            outputs = {"stem": model.stem, **_numbered("stage", model.stages), "final_conv": model.final_conv}
            return _record(model, {}, outputs, _to_nchw(images), rows)
        outputs = {**_numbered("block", model.blocks), "norm": model.norm}
        return _record(model, {"embeddings": model.blocks[0]}, outputs, _to_nchw(images), rows)

    def text_stages(self, tokens: np.ndarray, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """What each part of the text tower gives, in the order of computation.

        Args:
            tokens: Integers (n, 77).
            rows: as for `image_stages`.

        Returns:
            "embeddings" (what the first block is given), "block_0" …, "norm", each (n, 77, width);
            "features", (n, embed_dim), as `encode_text`.
        """
        model = _present(self._text, "text")
        blocks, norm = _text_parts(model)
        outputs = {**_numbered("block", blocks), "norm": norm}
        return _record(model, {"embeddings": blocks[0]}, outputs, tokens.astype(np.int64), rows)

    def reparameterize(self) -> "TorchReference":
        """A copy with its branches folded by timm's own code, in the model's precision.

        In float32 this is what Apple's users run: its error against float64 is Apple's own folding error.
        """
        from timm.utils.model import reparameterize_model

        return self._each(lambda tower: reparameterize_model(_copy(tower), inplace=True))

    @cached_property
    def folded(self) -> "TorchReference":
        """`reparameterize`, made once and kept."""
        return self.reparameterize()

    @contextmanager
    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Iterator[None]:
        """Within this context, floating-point parameters and buffers are what `change` makes of them.

        No module is copied: copies refer to themselves in circles, and Python lets go of them late.
        """
        import torch

        towers = [tower for tower in (self._image, self._text) if tower is not None]
        tensors = [tensor for tower in towers for tensor in (*tower.parameters(), *tower.buffers())]
        kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
        try:
            for tensor, data in kept:
                tensor.data = torch.from_numpy(change(data.numpy()))
            yield
        finally:
            for tensor, data in kept:
                tensor.data = data

    def to(self, dtype: Precision) -> "TorchReference":
        """A copy in another precision. Tensors that have it already are shared, not copied."""
        return self._each(lambda tower: _copy(tower, dtype))

    def _each(self, change: Callable[["nn.Module"], "nn.Module"]) -> "TorchReference":
        image, text = (None if tower is None else change(tower) for tower in (self._image, self._text))
        return TorchReference(image, text, self._log_scale, self.logit_bias)


def _present(tower: "nn.Module | None", kind: str) -> "nn.Module":
    if tower is None:
        raise ValueError(f"this reference was built without its {kind} tower")
    return tower


def _text_parts(model: "nn.Module") -> tuple[Any, "nn.Module"]:
    """The blocks of a text tower and its last norm."""
    if hasattr(model, "ln_final"):  # open_clip's
        return model.transformer.resblocks, model.ln_final
    return model.transformer, model.final_layer_norm


def _to_nchw(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _numbered(name: str, modules: "nn.Module") -> dict[str, "nn.Module"]:
    return {f"{name}_{i}": module for i, module in enumerate(modules.children())}


def _batches(
    model: "nn.Module", inputs: np.ndarray, batch_size: int, channels_last: bool = False
) -> Iterator["Tensor"]:
    import torch

    precision = next(model.parameters()).dtype
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for start in range(0, len(inputs), batch_size):
        batch = torch.tensor(inputs[start : start + batch_size])
        yield batch.to(precision, memory_format=layout) if batch.is_floating_point() else batch


def _in_batches(model: "nn.Module", inputs: np.ndarray, batch_size: int, channels_last: bool = False) -> np.ndarray:
    import torch

    with torch.inference_mode():
        batches = _batches(model, inputs, batch_size, channels_last)
        return np.concatenate([model(batch).numpy() for batch in batches])


def _record(
    model: "nn.Module",
    at_input: Mapping[str, "nn.Module"],
    at_output: Mapping[str, "nn.Module"],
    inputs: np.ndarray,
    rows: Sequence[int] | None,
) -> dict[str, np.ndarray]:
    """Runs a tower over all inputs. Keeps the features, and of some rows what the given modules take or give."""
    import torch

    stages: dict[str, np.ndarray] = {}
    kept = slice(None) if rows is None else list(rows)

    def keep(name: str, value: "Tensor") -> None:
        stages[name] = (value.permute(0, 2, 3, 1) if value.ndim == 4 else value)[kept].numpy().copy()

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in at_input.items():
            hooks.enter_context(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0])))
        for name, module in at_output.items():
            hooks.enter_context(module.register_forward_hook(lambda _, args, output, name=name: keep(name, output)))
        (batch,) = _batches(model, inputs, len(inputs))
        features = model(batch).numpy()
    return {**stages, "features": features}


def _copy(model: "nn.Module", dtype: Precision | None = None, channels_last: bool = False) -> "nn.Module":
    """Copies modules. Of their tensors, only those that need another precision or layout are copied."""
    import torch

    def convert(tensor: "Tensor") -> "Tensor":
        if not tensor.is_floating_point() or not (dtype or (channels_last and tensor.ndim == 4)):
            return tensor
        converted = tensor.detach().to(getattr(torch, dtype) if dtype else tensor.dtype)
        if channels_last and tensor.ndim == 4:
            converted = converted.contiguous(memory_format=torch.channels_last)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(converted, requires_grad=False)
        return converted

    # `deepcopy` does not copy what its memo holds.
    memo = {id(tensor): convert(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, memo)
