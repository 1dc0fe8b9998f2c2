"""The image tower: a backbone and the projection into the space that it shares with texts."""

from functools import partial
from pathlib import Path
from typing import Any, Self

import keras
from keras import ops

from .. import kernels
from ..architectures import IMAGE_TOWERS, FastViTConfig
from ..kernels.float64 import check_float64
from ..layers.base import Layer, called_by_keras
from ..layers.initializers import normal
from ..layers.paths import layers_by_path
from ..layers.remat import Rematerializes, remat, run_block
from ..registry import get_variant
from ..store.load import load_pretrained
from ..towers.fastvit import FastViT
from ..towers.vit import VisionTransformer
from ..types import Shape, Tensor
from .own_state import own_config, restore, split_config
from .quantizing import Quantizable
from .trainable import freeze


@keras.saving.register_keras_serializable("mobileclip_keras")
class ImageProjectionHead(Layer):
    """Pools a feature map by its mean over positions, then projects it linearly into the embedding space.

    Args:
        embed_dim: length of the features.
        use_bias: whether the projection has a bias. Apple's checkpoints have none; timm's layout adds one.

    Inputs: float (batch, height, width, channels), or already pooled (batch, channels).
    Outputs: float (batch, embed_dim), not normalised.
    """

    def __init__(self, embed_dim: int, use_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.use_bias = use_bias

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.embed_dim), initializer=normal(input_shape[-1] ** -0.5)
        )
        self.bias = (
            self.add_weight(name="bias", shape=(self.embed_dim,), initializer="zeros") if self.use_bias else None
        )

    def call(self, inputs: Tensor) -> Tensor:
        pooled = kernels.mean_over_positions(inputs) if len(inputs.shape) == 4 else inputs
        bias = None if self.bias is None else kernels.weight(self.bias)
        return kernels.dense_of_vectors(pooled, kernels.weight(self.kernel), bias)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.embed_dim)


@keras.saving.register_keras_serializable("mobileclip_keras")
class MobileClipImageEncoder(Rematerializes, Quantizable, keras.Model):
    """An image tower: images to features, not normalised.

    Args:
        backbone: a key of architectures.IMAGE_TOWERS ("mci0" ... "vit_l14"), the name of a model of
            keras.applications ("MobileNetV2", built without its classifier and without weights), or any Keras
            model from images to feature maps (batch, height, width, channels) or vectors (batch, channels).
        embed_dim: length of the features.
        image_size: height and width, in pixels, of the images; None for the backbone's own. Other sizes can be
            given at call time all the same: multiples of 32 for mci towers (of 64 for mci3 and mci4), of the patch
            size for ViTs.
        form: one of architectures.FORMS.
        projection_bias: whether the projection has a bias.
        norm_epsilon: of a ViT's LayerNorms.
        stem_padding: zeros around the image in the first convolution of a ViT.
        position_size: height and width of the images that a ViT's position embeddings are for; None for the
            backbone's own. A model that was trained at 384 pixels has 384 here.
        remat: whether training keeps only the inputs of each block, and computes it again for the gradient: less
            memory, more time. A backbone that is not MobileCLIP's is one block.

    Inputs: float (batch, height, width, 3), preprocessed as the variant asks.
    Outputs: float (batch, embed_dim).

    Raises:
        ValueError: for an unknown backbone, or images of another rank, channel count or size than it takes.
    """

    def __init__(
        self,
        backbone: Any = "mci2",
        embed_dim: int = 512,
        image_size: int | None = None,
        form: str = "train",
        projection_bias: bool = False,
        norm_epsilon: float = 1e-5,
        stem_padding: int = 0,
        position_size: int | None = None,
        remat: bool = False,
        name: str = "image_encoder",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.tower = backbone if isinstance(backbone, str) else None
        self.embed_dim = embed_dim
        self.form = form
        self.projection_bias = projection_bias
        self.norm_epsilon = norm_epsilon
        self.stem_padding = stem_padding
        self.position_size = position_size
        self.remat = remat
        config = IMAGE_TOWERS.get(backbone) if self.tower else None
        self.image_size = image_size or position_size or (config.image_size if config else 224)
        if config is None:
            self.size_divisor = 1
            self.backbone = _other_backbone(backbone, self.image_size)
        elif isinstance(config, FastViTConfig):
            self.size_divisor = 4 * 2 ** (len(config.depths) - 1)
            self.backbone = FastViT(config, form, dtype=self.dtype_policy, name="backbone")
        else:
            self.size_divisor = config.patch_size
            self.backbone = VisionTransformer(
                config, norm_epsilon, stem_padding, form, position_size, dtype=self.dtype_policy, name="backbone"
            )
        self.projection = ImageProjectionHead(embed_dim, projection_bias, dtype=self.dtype_policy, name="projection")
        self.build((None, self.image_size, self.image_size, 3))
        if not kwargs.get("trainable", True):
            freeze(self)

    @classmethod
    def from_variant(cls, variant: str, form: str = "train", **kwargs: Any) -> "MobileClipImageEncoder":
        """The untrained image tower of a variant ("s2", "MobileCLIP2-B", ...)."""
        found = get_variant(variant)
        options = {
            "backbone": found.image_tower,
            "embed_dim": found.embed_dim,
            "image_size": found.image_size,
            # Apple's own layout has no bias. Weights trained in open_clip on timm's towers have one.
            "projection_bias": found.published.layout != "apple",
            "norm_epsilon": found.image_norm_epsilon,
            "stem_padding": found.image_stem_padding,
        }
        return cls(form=form, **{**options, **kwargs})

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "MobileClipImageEncoder":
        """The trained image tower alone. Options: those of `MobileClipModel.from_pretrained` but `towers`."""
        return load_pretrained(name, towers="image", **options).image_encoder

    def build(self, input_shape: Shape) -> None:
        if not self.backbone.built:
            self.backbone.build(input_shape)
        self.projection.build(self.backbone.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        self._check(inputs.shape)
        check_float64(self.compute_dtype)
        with called_by_keras(self, self.backbone), remat(self.remat and bool(training)):
            run = self.backbone if self.tower in IMAGE_TOWERS else partial(run_block, self.backbone)
            return self.projection(run(inputs, training=training))

    def stage_outputs(self, inputs: Any) -> dict[str, Tensor]:
        """What each stage puts out for an image batch, by name, in order; the last is "features".

        Raises:
            ValueError: where the backbone is not one of MobileCLIP's.
        """
        if self.tower not in IMAGE_TOWERS:
            raise ValueError(f"Only MobileCLIP's own image towers have stages, not {self.backbone.name!r}.")
        inputs = ops.convert_to_tensor(inputs, dtype=self.compute_dtype)
        outputs = self.backbone.stage_outputs(inputs)
        last = list(outputs.values())[-1]
        outputs["features"] = self.projection(last[:, 0] if len(last.shape) == 3 else last)
        return outputs

    def _check(self, shape: Shape) -> None:
        if len(shape) != 4 or shape[-1] not in (3, None):
            raise ValueError(f"Images must have the shape (batch, height, width, 3), not {tuple(shape)}.")
        for size in shape[1:3]:
            if size is not None and size % self.size_divisor:
                raise ValueError(
                    f"The height and width of images for {self.tower} must be multiples of {self.size_divisor}; "
                    f"got {shape[1]} x {shape[2]}."
                )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.embed_dim)

    def get_config(self) -> dict[str, Any]:
        backbone = self.tower or keras.saving.serialize_keras_object(self.backbone)
        return {
            "backbone": backbone,
            "embed_dim": self.embed_dim,
            "image_size": self.image_size,
            "form": self.form,
            "projection_bias": self.projection_bias,
            "norm_epsilon": self.norm_epsilon,
            "stem_padding": self.stem_padding,
            # Left out where it is the backbone's own, so that versions without it open the folder.
            **({} if self.position_size is None else {"position_size": self.position_size}),
            **({"remat": True} if self.remat else {}),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            **own_config(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config, own = split_config(config)
        if isinstance(config["backbone"], dict):
            config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        encoder = cls(**config)
        restore(encoder, own)
        return encoder


def _other_backbone(backbone: Any, image_size: int) -> Any:
    """A model of keras.applications by name, or the Keras model given."""
    if isinstance(backbone, keras.Model):
        _check_channels_last(backbone)
        return backbone
    build = getattr(keras.applications, backbone, None) if isinstance(backbone, str) else None
    if not callable(build):
        raise ValueError(
            f"{backbone!r} is no image backbone. Give one of {', '.join(IMAGE_TOWERS)}, the name of a model of "
            "keras.applications such as 'MobileNetV2', or a Keras model."
        )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{backbone} cannot be built while Keras' image_data_format is 'channels_first': it would take images "
            "(batch, 3, height, width), and this model's are (batch, height, width, 3). Call "
            "keras.config.set_image_data_format('channels_last') first, or take one of MobileCLIP's own towers, "
            "which heed no such setting."
        )
    return build(include_top=False, weights=None, input_shape=(image_size, image_size, 3))


def _check_channels_last(backbone: keras.Model) -> None:
    """Raises ValueError for a model that takes the channels of images first."""
    shape = getattr(backbone, "input_shape", None)
    first = [layer.name for _, layer in layers_by_path(backbone) if _data_format(layer) == "channels_first"]
    if first or (isinstance(shape, tuple) and len(shape) == 4 and shape[-1] not in (3, None)):
        reason = f"its layers {', '.join(first[:3])} are 'channels_first'" if first else f"it takes {shape}"
        raise ValueError(
            f"{backbone.name!r} cannot be the image tower: {reason}, and images are (batch, height, width, 3). "
            "Build it with data_format='channels_last'."
        )


def _data_format(layer: Any) -> Any:
    return getattr(layer, "data_format", None)
