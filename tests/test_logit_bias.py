"""Models whose logits have a bias, as SigLIP's loss trains them: in loss, probabilities, folders and checkpoints."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.checkpoints.identify import identify
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.conversion.mapping import MappingError, load_into, read_from
from mobileclip_keras.converters.conversion.to_torch import to_torch
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.keras_models.tasks.zero_shot import ZeroShotClassifier
from mobileclip_keras.keras_models.training.losses import sigmoid_loss
from mobileclip_keras.verify.compare import Features, check_exact
from mobileclip_keras.weight_maps.table import LOGIT_BIAS, LOGIT_SCALE, NONE

from .converter_support import SMALL_CLIP, arrays, assert_same_bits, opened, place, read_all, write
from .small import EMBED_DIM, image_rows, randomise, text_rows
from .support import TOKENS, call, checkpoint, images

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")
ROWS = (LOGIT_SCALE, LOGIT_BIAS, *image_rows("small_mci", "apple"), *text_rows("small_mct", "apple"))


def small(bias: float = -3.0) -> MobileClipModel:
    model = MobileClipModel(
        MobileClipImageEncoder("small_mci", EMBED_DIM), MobileClipTextEncoder("small_mct", EMBED_DIM), logit_bias=True
    )
    randomise(model)
    model.logit_bias.assign(bias)
    return model


def value(tensor: object) -> float:
    return float(keras.ops.convert_to_numpy(tensor))


def test_it_starts_as_siglips_and_others_have_none() -> None:
    encoder = MobileClipTextEncoder("small_mct", EMBED_DIM)
    assert value(MobileClipModel(text_encoder=encoder, logit_bias=True).logit_bias) == -10
    plain = MobileClipModel(text_encoder=encoder)
    assert plain.logit_bias is None and "logit_bias" not in plain.get_config()


@pytest.mark.backend
def test_in_the_outputs_and_the_loss() -> None:
    model = small()
    inputs = {"image": images(64), "text": TOKENS}
    outputs = call(model, inputs)
    assert value(outputs["logit_bias"]) == -3 and value(model.predict(inputs, verbose=0)["logit_bias"]) == -3
    image, text = (keras.ops.convert_to_numpy(outputs[f"{name}_features"]) for name in ("image", "text"))
    logits = value(outputs["logit_scale"]) * image.astype(np.float64) @ text.T - 3
    signs = 2 * np.eye(4) - 1
    expected = np.log1p(np.exp(-signs * logits)).sum() / 4
    assert value(model.compute_loss(inputs, y_pred=outputs)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_open_clips() -> None:
    import torch
    from open_clip.loss import SigLipLoss

    chance = np.random.default_rng(0)
    image, text = (chance.normal(size=(5, 8)) for _ in range(2))
    image, text = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (image, text))
    theirs = SigLipLoss()(torch.from_numpy(image), torch.from_numpy(text), torch.tensor(12.0), torch.tensor(-4.0))
    assert value(sigmoid_loss(image, text, 12.0, -4.0)) == pytest.approx(float(theirs), rel=1e-6)
    one = value(sigmoid_loss(image, text, 12.0, -4.0, weights=np.array([1.0, 0, 0, 0, 0])))
    assert 0 < one < float(theirs)


def test_probabilities_are_each_labels_own() -> None:
    model = small()
    classifier = ZeroShotClassifier(model, ["a cat", "a dog"], preprocessor=lambda _: images(64, 1))
    logits = classifier.logits(images(64, 1))
    (found,) = classifier.classify(["image"])
    assert sorted(p.probability for p in found) == pytest.approx(sorted(1 / (1 + np.exp(-logits[0]))), rel=1e-5)
    model.logit_bias.assign(-3000.0)
    assert [p.probability for p in classifier.classify(["image"])[0]] == [0, 0]


@pytest.mark.backend
def test_it_is_saved_loaded_and_folded(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path / "a")
    for loaded in (load_folder(tmp_path / "a"), keras.saving.load_model(tmp_path / "a"), model.reparameterize()):
        assert value(loaded.logit_bias) == -3
        assert value(loaded.logit_scale) == value(model.logit_scale)


def test_both_ways_bit_for_bit() -> None:
    chance = np.random.default_rng(0)
    tensors = {
        row.source: chance.uniform(0.5, 1, row.source_shape).astype(row.dtype) for row in ROWS if row.source != NONE
    }
    model = small()
    load_into(model, checkpoint(tensors), ROWS)
    assert value(model.logit_bias) == tensors["logit_bias"]
    assert_same_bits(read_from(model, ROWS), tensors)
    with pytest.raises(MappingError, match="in the Keras model without a row:\n  logit_bias"):
        read_from(model, (ROWS[0], *ROWS[2:]))


def test_it_is_known_by_the_tables() -> None:
    for shape in ((), (1,)):
        source = opened(place({f"module.{n}": s for n, s in {**SMALL_CLIP.shapes, "logit_bias": shape}.items()}))
        found = identify(source.shapes)
        assert found.logit_bias and str(found) == str(SMALL_CLIP)
        assert found.shapes == {**SMALL_CLIP.shapes, "logit_bias": ()}


def test_a_wrong_bias_is_not_verified() -> None:
    features = Features(np.ones((2, 4)), np.ones((2, 4)))
    for biases, passes in (((-3.0, -3.0), True), ((None, None), True), ((-3.0, -3.1), False), ((None, -3.0), False)):
        assert check_exact("train", features, features, (2.0, 2.0), biases).passed is passes


@pytest.mark.nightly
def test_a_checkpoint_with_a_bias_goes_there_and_back(tmp_path: Path) -> None:
    tensors = {**arrays(SMALL_CLIP), "logit_bias": np.array(-9.5, np.float32)}
    done = convert(write(tensors, tmp_path / "2-s0.safetensors"), tmp_path / "out", verify=False)
    assert value(load_folder(done.folder).logit_bias) == -9.5
    assert json.loads((done.folder / "conversion.json").read_text())["source"]["logit_bias"] is True
    assert (
        "keras.ops.sigmoid(model.scale() * similarities + model.logit_bias)" in (done.folder / "README.md").read_text()
    )
    to_torch(done.folder, "open_clip", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), tensors)
