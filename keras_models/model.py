"""MobileClipModel: an image tower and a text tower that meet in one space."""

import math
from typing import ClassVar

import keras
from keras import ops

from .image_encoder import MobileClipImageEncoder
from .registry import VARIANTS, Variant, get_variant
from .text_encoder import MobileClipTextEncoder

MAX_LOGIT_SCALE = 100.0


@keras.saving.register_keras_serializable("mobileclip_keras")
class MobileClipModel(keras.Model):
    """MobileCLIP (arXiv 2311.17049) and MobileCLIP2 (arXiv 2508.20691): images and texts to comparable features.

    Args:
        image_encoder: the image tower; None for a model of texts alone.
        text_encoder: the text tower; None for a model of images alone.
        variant: name of the published variant that this is, or None.

    Inputs: a dict with "image" (float, (batch, height, width, 3), preprocessed), "text" (integers, (batch, 77),
    padded with 0), or both.
    Outputs: a dict with "image_features" and "text_features" (float, (batch, embed_dim), of length 1) for what was
    given, and "logit_scale" (a scalar, after exp, at most 100): similarities in [-1, 1] times it are logits. The
    variable `logit_scale` is its logarithm, which starts at ln(1 / 0.07) and is trained.

    Raises:
        ValueError: for inputs that a tower does not take, or that no tower is there for.
    """

    MODEL_VARIANTS: ClassVar[dict[str, Variant]] = VARIANTS
    """The published variants by name."""

    def __init__(self, image_encoder=None, text_encoder=None, variant: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if image_encoder is None and text_encoder is None:
            raise ValueError("A MobileClipModel needs an image encoder, a text encoder or both.")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.variant = variant
        self.logit_scale = self.add_weight(
            name="logit_scale",
            shape=(),
            initializer=keras.initializers.Constant(math.log(1 / 0.07)),
            autocast=False,
        )
        self.built = True

    @classmethod
    def from_variant(
        cls, variant: str, *, image_backbone=None, form: str = "train", towers: str = "both", dtype=None, **kwargs
    ) -> "MobileClipModel":
        """An untrained model of a variant.

        Args:
            variant: any spelling of a published variant: "s2", "MobileCLIP2-S2", ...
            image_backbone: what stands in for the variant's image tower: the name of a keras.applications model
                ("MobileNetV2"), or a Keras model. None for the variant's own.
            form: one of architectures.FORMS.
            towers: "both", "image" or "text".
            dtype: dtype policy of every layer ("float32", "mixed_float16", ...); None for Keras' global one.
            kwargs: passed to the image tower, for example `image_size`.

        Raises:
            UnknownVariantError: listing the known ones, nearest first.
            ValueError: for an unknown form, towers or backbone.
        """
        found = get_variant(variant)
        check_towers(towers)
        image_encoder = text_encoder = None
        if towers != "text":
            backbone = {} if image_backbone is None else {"backbone": image_backbone}
            image_encoder = MobileClipImageEncoder.from_variant(variant, form, dtype=dtype, **backbone, **kwargs)
        if towers != "image":
            text_encoder = MobileClipTextEncoder.from_variant(variant, form, dtype=dtype)
        return cls(image_encoder, text_encoder, variant=found.name, dtype=dtype)

    def encode_image(self, images, normalize: bool = True):
        """Features of images.

        Args:
            images: float (batch, height, width, 3), preprocessed.
            normalize: whether the features are scaled to length 1.

        Returns:
            Float (batch, embed_dim).
        """
        if self.image_encoder is None:
            raise ValueError("This model was loaded without its image tower.")
        features = self.image_encoder(ops.convert_to_tensor(images), training=False)
        return unit_length(features) if normalize else features

    def encode_text(self, tokens, normalize: bool = True):
        """Features of texts.

        Args:
            tokens: integers (batch, 77), padded with 0.
            normalize: whether the features are scaled to length 1.

        Returns:
            Float (batch, embed_dim).
        """
        if self.text_encoder is None:
            raise ValueError("This model was loaded without its text tower.")
        features = self.text_encoder(ops.convert_to_tensor(tokens), training=False)
        return unit_length(features) if normalize else features

    def call(self, inputs, training=None):
        known = {"image": self.image_encoder, "text": self.text_encoder}
        unknown = [key for key in inputs if known.get(key) is None] if isinstance(inputs, dict) else [type(inputs)]
        if unknown or not inputs:
            towers = ", ".join(f"'{key}'" for key, tower in known.items() if tower is not None)
            raise ValueError(f"The inputs are a dict with {towers}; got {unknown or 'an empty dict'}.")
        outputs = {}
        for key in inputs:
            outputs[f"{key}_features"] = unit_length(known[key](inputs[key], training=training))
        outputs["logit_scale"] = ops.minimum(ops.exp(self.logit_scale), MAX_LOGIT_SCALE)
        return outputs

    def build(self, input_shape=None):
        """Nothing: the towers and the logit scale exist from the start."""

    def reparameterize(self, form: str = "inference") -> "MobileClipModel":
        """A new model that computes the same function with fewer, folded weights. See `folding.reparameterize`."""
        from .folding import reparameterize

        return reparameterize(self, form)

    @property
    def form(self) -> str:
        """The form of the towers, one of architectures.FORMS."""
        return (self.image_encoder if self.image_encoder is not None else self.text_encoder).form

    def get_config(self):
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "variant": self.variant,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("image_encoder", "text_encoder"):
            config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return cls(**config)


def create_mobile_clip_model(variant: str, **kwargs) -> MobileClipModel:
    """The same as `MobileClipModel.from_variant`."""
    return MobileClipModel.from_variant(variant, **kwargs)


def check_towers(towers: str) -> None:
    """Raises ValueError unless `towers` is "both", "image" or "text"."""
    if towers not in ("both", "image", "text"):
        raise ValueError(f"towers must be 'both', 'image' or 'text', not {towers!r}.")


def unit_length(features):
    """Features scaled to length 1, computed in float32 at least. Zero stays zero."""
    dtype = keras.backend.standardize_dtype(features.dtype)
    if dtype in ("float16", "bfloat16"):
        return ops.cast(unit_length(ops.cast(features, "float32")), dtype)
    length = ops.sqrt(ops.sum(ops.square(features), axis=-1, keepdims=True))
    return features / ops.maximum(length, 1e-12)
