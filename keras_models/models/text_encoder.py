"""The text tower: a backbone and the projection into the space that it shares with images."""

from pathlib import Path
from typing import Any, Self

import keras
from keras import ops

from ..architectures import TEXT_TOWERS
from ..kernels.float64 import check_float64
from ..kernels.keras_internals import TakesTokens
from ..layers.base import called_by_keras
from ..layers.dense import VectorLinear
from ..layers.initializers import normal
from ..layers.remat import Rematerializes, remat
from ..registry import get_variant
from ..store.load import load_pretrained
from ..towers.text import TextBackbone
from ..types import Shape, Tensor
from .own_state import own_config, restore, split_config
from .quantizing import Quantizable
from .trainable import freeze


@keras.saving.register_keras_serializable("mobileclip_keras")
class MobileClipTextEncoder(TakesTokens, Rematerializes, Quantizable, keras.Model):
    """A text tower: token ids to features, not normalised.

    Args:
        backbone: a key of architectures.TEXT_TOWERS ("mct", "transformer_512", "transformer_512_causal",
            "transformer_768").
        embed_dim: length of the features.
        form: one of architectures.FORMS.
        remat: whether training keeps only the inputs of each block, and computes it again for the gradient: less
            memory, more time.

    Inputs: integers (batch, length), length at most 77, padded with 0.
    Outputs: float (batch, embed_dim).

    Raises:
        ValueError: for an unknown backbone, or tokens of another rank, dtype or length than it takes.
    """

    def __init__(
        self,
        backbone: str = "transformer_512",
        embed_dim: int = 512,
        form: str = "train",
        remat: bool = False,
        name: str = "text_encoder",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if backbone not in TEXT_TOWERS:
            raise ValueError(f"{backbone!r} is no text backbone. Give one of {', '.join(TEXT_TOWERS)}.")
        self.tower = backbone
        self.embed_dim = embed_dim
        self.form = form
        self.remat = remat
        self.context_length = TEXT_TOWERS[backbone].context_length
        self.backbone = TextBackbone(TEXT_TOWERS[backbone], form, dtype=self.dtype_policy, name="backbone")
        self.projection = VectorLinear(
            embed_dim,
            use_bias=False,
            kernel_initializer=normal(TEXT_TOWERS[backbone].width ** -0.5),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.build((None, self.context_length))
        if not kwargs.get("trainable", True):
            freeze(self)

    @classmethod
    def from_variant(cls, variant: str, form: str = "train", **kwargs: Any) -> "MobileClipTextEncoder":
        """The untrained text tower of a variant ("s2", "MobileCLIP2-B", ...)."""
        found = get_variant(variant)
        return cls(**{"backbone": found.text_tower, "embed_dim": found.embed_dim, "form": form, **kwargs})

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "MobileClipTextEncoder":
        """The trained text tower alone. Options: those of `MobileClipModel.from_pretrained` but `towers`."""
        return load_pretrained(name, towers="text", **options).text_encoder

    def build(self, input_shape: Shape) -> None:
        self.backbone.build(input_shape)
        self.projection.build(self.backbone.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        self._check(inputs)
        check_float64(self.compute_dtype)
        with called_by_keras(self, self.backbone), remat(self.remat and bool(training)):
            return self.projection(self.backbone(inputs, training=training))

    def stage_outputs(self, inputs: Any) -> dict[str, Tensor]:
        """What each stage puts out for a token batch, by name, in order; the last is "features"."""
        inputs = ops.convert_to_tensor(inputs, dtype="int32")
        outputs = self.backbone.stage_outputs(inputs)
        outputs["features"] = self.projection(self.backbone.at_end_of_text(outputs["norm"], inputs))
        return outputs

    def _check(self, tokens: Tensor) -> None:
        if len(tokens.shape) != 2 or (tokens.shape[1] or 0) > self.context_length:
            raise ValueError(
                f"Tokens must have the shape (batch, length) with at most {self.context_length} a row, not "
                f"{tuple(tokens.shape)}. Strings go through mobileclip_keras.Tokenizer first."
            )
        if "int" not in keras.backend.standardize_dtype(tokens.dtype):
            raise ValueError(f"Tokens must be integers, not {keras.backend.standardize_dtype(tokens.dtype)}.")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.embed_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": self.tower,
            "embed_dim": self.embed_dim,
            "form": self.form,
            **({"remat": True} if self.remat else {}),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            **own_config(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config, own = split_config(config)
        encoder = cls(**config)
        restore(encoder, own)
        return encoder
