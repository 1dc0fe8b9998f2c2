"""A folder that version 0.1.0 saved still loads and gives the features that it gave then."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.verify.data import synthetic

from .support import apply, unit

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers", "quickly_compiled")]

FOLDER = Path(__file__).parent / "saved_by_0_1_0"
IMAGES = synthetic.images(2, 64, seed=0)


def by_package(form: str) -> mk.MobileClipModel:
    return mk.MobileClipModel.from_pretrained(FOLDER, form=form)


def by_keras(form: str) -> mk.MobileClipModel:
    return keras.saving.load_model(FOLDER / "train" if form == "train" else FOLDER)


@pytest.mark.parametrize("load", [by_package, by_keras])
@pytest.mark.parametrize("form", ["inference", "train"])
def test_a_folder_of_0_1_0_gives_the_same_features(form: str, load: Callable[[str], mk.MobileClipModel]) -> None:
    with np.load(FOLDER / "expected.npz") as file:
        expected = dict(file)
    model = load(form)
    assert model.form == form and model.variant == "mobileclip2_s0"
    images, texts = apply(model.image_encoder, IMAGES), apply(model.text_encoder, expected["tokens"].astype(np.int32))
    for tower, features in (("image", images), ("text", texts)):
        np.testing.assert_allclose(unit(features), expected[f"{form}_{tower}"], rtol=0, atol=1e-6)


def test_the_preprocessing_of_0_1_0_still_loads() -> None:
    assert repr(mk.ImagePreprocessor.from_pretrained(FOLDER)) == repr(mk.ImagePreprocessor(64, (0.5, 0.25, 0.125)))
