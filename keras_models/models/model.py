"""MobileClipModel: an image tower and a text tower that meet in one space."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
from keras import ops

from .. import kernels
from ..inputs.preprocessing import ImagePreprocessor
from ..inputs.tokenizer import Tokenizer
from ..kernels.keras_internals import TakesTokens
from ..registry import VARIANTS, Variant, get_variant
from ..store.load import load_pretrained
from ..store.model_config import check_towers
from ..store.save import SavesItself, save_folder
from ..towers.folding import reparameterize
from ..training.losses import contrastive_loss, sigmoid_loss
from ..training.optimizer import MAX_LOG_LOGIT_SCALE, MAX_LOGIT_SCALE, AtMost
from ..types import Tensor
from .copying import adapted_layers, copy_model, merged_copy
from .features import FeatureModel
from .image_encoder import MobileClipImageEncoder
from .in_chunks import FitsInChunks, run_tower
from .own_state import restore, split_config
from .pair_weights import WeighsPairs
from .quantizing import Quantizable
from .rematerializing import RematerializesTowers
from .text_encoder import MobileClipTextEncoder
from .trainable import freeze, trainable_config
from .tunable import Tunable

INITIAL_LOGIT_BIAS = -10.0
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


@keras.saving.register_keras_serializable("mobileclip_keras")
class MobileClipModel(TakesTokens, RematerializesTowers, Quantizable, Tunable, FitsInChunks, WeighsPairs, keras.Model):
    """MobileCLIP (arXiv 2311.17049) and MobileCLIP2 (arXiv 2508.20691): images and texts to comparable features.

    Args:
        image_encoder: the image tower; None for a model of texts alone.
        text_encoder: the text tower; None for a model of images alone.
        variant: name of the published variant that this is, or None.
        logit_bias: whether a trained number is added to the logits, as SigLIP (arXiv 2303.15343) does. Each pair is
            then judged by itself: the loss is a sigmoid loss, and probabilities are sigmoids of the logits.

    Inputs: a dict with "image" (float, (batch, height, width, 3), preprocessed), "text" (integers, (batch, 77),
    padded with 0), or both.
    Outputs: a dict with "image_features" and "text_features" (float, (batch, embed_dim), of length 1) for what was
    given, and "logit_scale" (a scalar, after exp, at most 100): similarities in [-1, 1] times it are logits. The
    variable `logit_scale` is its logarithm, which starts at ln(1 / 0.07), is trained, and is kept below ln(100). With
    `logit_bias`, there is a "logit_bias" too (a scalar): it is added to the logits, starts at -10 and is trained.

    Raises:
        ValueError: for inputs that a tower does not take, or that no tower is there for.
    """

    MODEL_VARIANTS: ClassVar[dict[str, Variant]] = VARIANTS
    """The published variants by name."""

    def __init__(
        self,
        image_encoder: Any = None,
        text_encoder: Any = None,
        variant: str | None = None,
        logit_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if image_encoder is None and text_encoder is None:
            raise ValueError("A MobileClipModel needs an image encoder, a text encoder or both.")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.variant = variant
        self.logit_scale = self.add_weight(
            name="logit_scale",
            shape=(),
            initializer=keras.initializers.Constant(INITIAL_LOGIT_SCALE),
            constraint=AtMost(MAX_LOG_LOGIT_SCALE),
            autocast=False,
        )
        self.logit_bias = None
        if logit_bias:
            self.logit_bias = self.add_weight(
                name="logit_bias",
                shape=(),
                initializer=keras.initializers.Constant(INITIAL_LOGIT_BIAS),
                autocast=False,
            )
        # A function hides it: Keras takes every attribute that is a model for a part of this one.
        self._feature_model: Callable[[], FeatureModel] | None = None
        self.built = True
        if not kwargs.get("trainable", True):
            freeze(self)

    @classmethod
    def from_variant(
        cls,
        variant: str,
        *,
        image_backbone: Any = None,
        form: str = "train",
        towers: str = "both",
        dtype: Any = None,
        logit_bias: bool = False,
        remat: bool = False,
        **kwargs: Any,
    ) -> "MobileClipModel":
        """An untrained model of a variant.

        Args:
            variant: any spelling of a published variant: "s2", "MobileCLIP2-S2", ...
            image_backbone: what stands in for the variant's image tower: the name of a keras.applications model
                ("MobileNetV2"), or a Keras model. None for the variant's own.
            form: one of architectures.FORMS.
            towers: "both", "image" or "text".
            dtype: dtype policy of every layer ("float32", "mixed_float16", ...); None for Keras' global one.
            logit_bias: whether a trained number is added to the logits; see the class.
            remat: whether training takes less memory and more time; see the attribute `remat`.
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
            options = {"dtype": dtype, "remat": remat, **backbone, **kwargs}
            image_encoder = MobileClipImageEncoder.from_variant(variant, form, **options)
        if towers != "image":
            text_encoder = MobileClipTextEncoder.from_variant(variant, form, dtype=dtype, remat=remat)
        return cls(image_encoder, text_encoder, variant=found.name, logit_bias=logit_bias, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        form: str | None = None,
        dtype: str | None = None,
        towers: str | None = None,
        remat: bool = False,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "MobileClipModel":
        """A model with its trained weights.

        Args:
            name: a converted folder; a repository of converted weights on the Hub ("user/mobileclip-s2-keras",
                "hf://user/mobileclip-s2-keras"), of which only the files needed are downloaded; or any spelling
                of a variant ("s2", "apple/MobileCLIP-S2"). Of a variant, the published checkpoint is downloaded
                and converted the first time, which is not compared with PyTorch as `convert` does, and kept in
                ~/.cache/mobileclip_keras (or below $XDG_CACHE_HOME, or in $MOBILECLIP_KERAS_HOME).
                PyTorch is needed only where the checkpoint is published as a .pt file alone.
            form: "inference" or "train" (for fine-tuning); None for what the folder or repository gives first,
                which is inference wherever it can.
            dtype: dtype policy ("float32", "mixed_float16", "bfloat16", "float64", ...); None for the one saved.
            towers: "both", "image" or "text"; of one tower, only its weights are read. None for what the folder or
                repository holds, which may be one tower alone.
            remat: whether training takes less memory and more time; see the attribute `remat`.
            revision: branch, tag or commit of a repository.
            token: for the Hub; None for HF_TOKEN or the login of the Hub's client.
            cache_dir: where downloads and converted copies are kept, in place of the usual folders.
            local_files_only: whether to use only what is there, as HF_HUB_OFFLINE=1 does for every call.

        Raises:
            MobileClipError: saying what is missing or damaged, and what to do. An unknown name lists the
                variants, nearest first. Nothing half-made is left behind.
            ValueError: for unknown `towers`, or a `revision` of something other than a repository.
        """
        model: MobileClipModel = load_pretrained(
            name,
            form=form,
            dtype=dtype,
            towers=towers,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        if remat:
            model.remat = True
        return model

    def save_pretrained(
        self, folder: str | Path, *, overwrite: bool = False, preprocessor: ImagePreprocessor | None = None
    ) -> None:
        """Saves the model as a folder that `from_pretrained` and `keras.saving.load_model` open.

        The folder appears whole or not at all. It holds the model in its present form and dtype, the tokenizer
        and the settings of preprocessing, and neither optimizer nor losses.

        Args:
            folder: to be written.
            overwrite: whether to replace a model that is there.
            preprocessor: what the model's images go through; None for the variant's own at the model's size.
                A model that is of no variant and gets none is saved without.

        Raises:
            MobileClipError: where the folder exists or cannot be written.
        """
        beside: list[SavesItself] = []
        if preprocessor is None and self.image_encoder is not None and self.variant in VARIANTS:
            preprocessor = ImagePreprocessor.from_variant(self.variant)
            preprocessor.image_size = self.image_encoder.image_size
        if preprocessor is not None:
            beside.append(preprocessor)
        if self.text_encoder is not None:
            beside.append(Tokenizer(self.text_encoder.context_length))
        save_folder(self._to_be_saved, folder, beside, overwrite=overwrite)

    def _to_be_saved(self) -> "MobileClipModel":
        """This model, or a plain copy where it holds what belongs to its training.

        Keras would save a compiled model with its optimizer, losses and metrics, which only its own code can load.
        """
        if adapted_layers(self):
            return merged_copy(self)
        return copy_model(self) if self.compiled else self

    def encode_image(self, images: Any, normalize: bool = True) -> Tensor:
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
        return kernels.unit_length(features) if normalize else features

    def encode_text(self, tokens: Any, normalize: bool = True) -> Tensor:
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
        return kernels.unit_length(features) if normalize else features

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        known = {"image": self.image_encoder, "text": self.text_encoder}
        unknown = [key for key in inputs if known.get(key) is None] if isinstance(inputs, dict) else [type(inputs)]
        if unknown or not inputs:
            towers = ", ".join(f"'{key}'" for key, tower in known.items() if tower is not None)
            raise ValueError(f"The inputs are a dict with {towers}; got {unknown or 'an empty dict'}.")
        size, outputs = self.chunk_size_for(training), {}
        for key in inputs:
            outputs[f"{key}_features"] = kernels.unit_length(run_tower(known[key], inputs[key], training, size))
        outputs["logit_scale"] = self.scale()
        if self.logit_bias is not None:
            # A copy: JAX gives the variable's own memory away in `fit` and `predict`.
            outputs["logit_bias"] = ops.copy(ops.convert_to_tensor(self.logit_bias))
        return outputs

    def scale(self) -> Any:
        """What similarities are multiplied with, a scalar tensor: exp(logit_scale), at most 100."""
        scale = kernels.exp(kernels.weight(self.logit_scale))
        return ops.clip(scale, -float("inf"), MAX_LOGIT_SCALE)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Keras's `predict`: the outputs for arrays, a dataset or a generator, as NumPy arrays."""
        outputs = self.feature_model().predict(x, *args, **kwargs)
        bias = {} if self.logit_bias is None else {"logit_bias": ops.convert_to_numpy(self.logit_bias)}
        return {**outputs, "logit_scale": ops.convert_to_numpy(self.scale()), **bias}

    def feature_model(self) -> FeatureModel:
        """What `predict` runs: this model without its logit scale. (Keras would save a property's model.)"""
        if self._feature_model is None or not self._feature_model().is_current():
            made = FeatureModel(self)
            self._feature_model = lambda: made
        return self._feature_model()

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """What `fit` minimises: the loss given to `compile`; without one, the contrastive loss over the pairs of a
        batch, or SigLIP's sigmoid loss for a model with a logit bias. Both need images and texts and no targets. The
        towers' own losses are added."""
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if not {"image_features", "text_features"} <= y_pred.keys():
            raise ValueError("The contrastive loss needs pairs: a batch with both 'image' and 'text'.")
        pairs = (y_pred["image_features"], y_pred["text_features"])
        if "logit_bias" in y_pred:
            loss = sigmoid_loss(*pairs, y_pred["logit_scale"], y_pred["logit_bias"], sample_weight)
        else:
            loss = contrastive_loss(*pairs, y_pred["logit_scale"], sample_weight)
        return sum((ops.cast(ops.sum(own), loss.dtype) for own in self.losses), loss)

    def build(self, input_shape: Any = None) -> None:
        """Nothing: the towers and the logit scale exist from the start."""

    def reparameterize(self, form: str = "inference") -> "MobileClipModel":
        """A new model that computes the same function with fewer, folded weights. See `folding.reparameterize`."""
        return reparameterize(self, form)

    @property
    def form(self) -> str:
        """The form of the towers, one of architectures.FORMS."""
        return (self.image_encoder if self.image_encoder is not None else self.text_encoder).form

    def get_config(self) -> dict[str, Any]:
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "variant": self.variant,
            # Left out where there is none, so that versions without it open the folder.
            **({} if self.logit_bias is None else {"logit_bias": True}),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            **trainable_config(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config, own = split_config(config)
        for key in ("image_encoder", "text_encoder"):
            config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        model = cls(**config)
        restore(model, own)
        return model


def create_mobile_clip_model(variant: str, **kwargs: Any) -> MobileClipModel:
    """The same as `MobileClipModel.from_variant`."""
    return MobileClipModel.from_variant(variant, **kwargs)
