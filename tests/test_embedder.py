"""The embedder with a model: what it gives, what tells it from others."""

from pathlib import Path

import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.models.features import encode
from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder
from mobileclip_keras.keras_models.tasks.embedding.errors import DataError
from tests.embedding_support import picture
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")


@pytest.fixture(scope="module")
def folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model."""
    made = tmp_path_factory.mktemp("embedder") / "model"
    small_model(form="inference", variant="mobileclip_s0").save_pretrained(made, preprocessor=mk.ImagePreprocessor(64))
    return made


@pytest.mark.backend
def test_a_vector_does_not_depend_on_its_neighbours(folder: Path) -> None:
    """A run that is begun again has other batches. Yet each bit is the same."""
    embedder = Embedder.from_pretrained(folder, batch_size=4)
    images, texts = [picture(seed) for seed in range(10)], [f"number {'one ' * seed}" for seed in range(6)]
    first = embedder.images(images)
    assert first.shape == (10, 16) and first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(embedder.images(images[::-1])[::-1], first)
    np.testing.assert_array_equal(embedder.images(images[3:4]), first[3:4])
    np.testing.assert_array_equal(embedder.texts(texts[::-1])[::-1], embedder.texts(texts))
    expected = encode(embedder.model, "image", embedder.preprocessor(images))
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_a_fingerprint_changes_with_all_that_changes_a_vector(folder: Path) -> None:
    one = Embedder.from_pretrained(folder).fingerprint
    assert one == Embedder.from_pretrained(folder).fingerprint
    assert (one.precision, one.dtype, one.version) == ("23 bits", "float32", mk.__version__)
    assert len(one.image_weights) == len(one.text_weights) == 64
    words = Embedder.from_pretrained(folder, towers="text").fingerprint
    assert not words.image_weights and not words.preprocessing and one.differences(words) == []
    (other,) = one.differences(Embedder.from_pretrained(folder, dtype="mixed_bfloat16").fingerprint)
    assert other == "the dtype of the computation (float32 there, mixed_bfloat16 here)"
    with pytest.raises(DataError, match="image tower"):
        Embedder.from_pretrained(folder, towers="text").images(["a.png"])
    with pytest.raises(DataError, match="text tower"):
        Embedder.from_pretrained(folder, towers="image").texts(["a cat"])
