"""Small checkpoints of every kind of weights, and what the verification says of models made from them.

Both sides are small towers with every part of the real ones: PyTorch's, loaded strictly from a checkpoint, and Keras',
loaded from the same one by the tables. Imports PyTorch, timm and open_clip where something is verified.
"""

from functools import cache
from typing import Any

from mobileclip_keras.converters.conversion.mapping import load_into
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.towers.folding import reparameterize
from mobileclip_keras.verify.compare import Features, check_exact
from mobileclip_keras.verify.data import synthetic, weight_kinds
from mobileclip_keras.verify.data.inputs import Inputs
from mobileclip_keras.verify.running.programs import features_of, unnormalised
from mobileclip_keras.verify.torch_models import TorchReference
from mobileclip_keras.verify.verification import Verification, verify_model
from mobileclip_keras.weight_maps.table import LOGIT_SCALE, NONE, Row

from .small import EMBED_DIM, SMALL_IMAGE_TOWERS, image_rows, text_rows
from .support import Arrays, checkpoint, images

Pair = tuple[str, str, str]
"""An image tower, a text tower, and the layout of the checkpoint."""

MCI: Pair = ("small_mci", "small_mct", "apple")
VIT: Pair = ("small_vit", "small_transformer_causal", "open_clip")
MCI_LAYER: Pair = ("small_mci_layer", "small_transformer", "open_clip")  # as mci3 and mci4
VIT_CLIP: Pair = ("small_vit_clip", "small_transformer", "open_clip")  # as vit_l14
PAIRS = (MCI, VIT, MCI_LAYER, VIT_CLIP)


def rows_of(pair: Pair) -> tuple[Row, ...]:
    """The tables of both towers."""
    image, text, layout = pair
    return (LOGIT_SCALE, *image_rows(image, layout), *text_rows(text, layout))


@cache
def tensors_of(pair: Pair, kind: str = "uniform", seed: int = 0) -> Arrays:
    """A checkpoint, which is not to be changed.

    Args:
        pair: its towers.
        kind: one of weight_kinds.KINDS.
        seed: which checkpoint.
    """
    from .small_torch import small_reference

    shapes = [(row.source, row.source_shape) for row in rows_of(pair) if row.source != NONE]
    return weight_kinds.draw(
        kind, shapes, seed, lambda state: small_reference(*pair, dict(state), dtype="float32"), inputs(pair[0])
    )


def build(pair: Pair, rows: tuple[Row, ...], kind: str = "uniform", seed: int = 0, **options: Any) -> MobileClipModel:
    """The Keras model of a checkpoint, in train form, loaded by the rows given."""
    image, text, layout = pair
    padding = {"stem_padding": 1} if image == "small_vit" else {}
    options = {"projection_bias": layout != "apple", **padding, **options}
    with to_be_overwritten():
        model = MobileClipModel(
            MobileClipImageEncoder(image, EMBED_DIM, dtype="float32", **options),
            MobileClipTextEncoder(text, EMBED_DIM, dtype="float32"),
            dtype="float32",
        )
    load_into(model, checkpoint(tensors_of(pair, kind, seed)), rows)
    return model


@cache
def reference(pair: Pair, kind: str = "uniform", seed: int = 0) -> TorchReference:
    """The PyTorch model of a checkpoint."""
    from .small_torch import small_reference

    return small_reference(*pair, tensors_of(pair, kind, seed))


@cache
def inputs(image: str) -> Inputs:
    """As many as the fixed inputs of a real variant."""
    pixels, tokens = images(SMALL_IMAGE_TOWERS[image].image_size, 16), synthetic.tokens(24, seed=0)
    return Inputs(pixels, tokens, tuple(map(str, range(16))), tuple(map(str, range(24))))


def verdict(
    pair: Pair, model: MobileClipModel, forms: tuple[str, ...], kind: str = "uniform", seed: int = 0
) -> Verification:
    """What the verification says of a model of a checkpoint."""

    def make_model(form: str, dtype: str) -> MobileClipModel:
        same = (form, dtype) == (model.form, model.dtype)
        return model if same else reparameterize(model, form, dtype)

    return verify_model("mobileclip_s0", make_model, forms, reference(pair, kind, seed), inputs(pair[0]))


@cache
def exact_features(pair: Pair, kind: str, seed: int = 0) -> Features:
    """PyTorch's features of a checkpoint, in float64."""
    exact, given = reference(pair, kind, seed), inputs(pair[0])
    return Features(exact.encode_image(given.images), exact.encode_text(given.tokens))


def is_equal_in_float64(pair: Pair, model: MobileClipModel, kind: str) -> bool:
    """The verification's check in float64 alone. Where it fails, the verification fails."""
    with kernels.float64_enabled(), kernels.without_gradients():
        wide = reparameterize(model, model.form, "float64")
        found = features_of(unnormalised(wide), inputs(pair[0]))
    return check_exact(model.form, found, exact_features(pair, kind)).passed
