"""The rows that layers are measured on: none of those between, and enough for layers with many inputs."""

import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize.measured_rows import ENOUGH, measured_rows
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer

TEXTS = Tokenizer()(["a red square", "two small circles left of a cross", "dots", "", "a photo of a green star", "x"])


def images(count: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width, 3), np.float32)


@pytest.mark.parametrize("rows", [images(5), TEXTS], ids=["image", "text"])
def test_every_other_row_comes_first_and_those_between_never(rows: np.ndarray) -> None:
    found = measured_rows("image" if rows.ndim == 4 else "text", rows)
    own = rows[::2]
    assert np.array_equal(found[: len(own)], own) and found.dtype == rows.dtype
    others = found[len(own) :]
    assert len(others) and not any(np.array_equal(made, row) for made in others for row in rows[1::2] if row.any())


def test_pictures_are_laid_in_all_eight_ways() -> None:
    (picture,) = images(1)
    found = measured_rows("image", picture[None])
    ways = [np.rot90(each, turns) for each in (picture, picture.swapaxes(0, 1)) for turns in range(4)]
    assert len(found) == 8
    assert all(sum(np.array_equal(way, each) for each in found) == 1 for way in ways)


def test_pictures_that_are_not_square_keep_their_shape() -> None:
    found = measured_rows("image", images(1, 4, 6))
    assert found.shape == (4, 4, 6, 3) and len(np.unique(found.reshape(4, -1), axis=0)) == 4


def test_texts_are_made_of_the_words_of_those_that_are_measured_on() -> None:
    found = measured_rows("text", TEXTS)
    assert len(found) == ENOUGH
    words = {word for text in TEXTS[::2] for word in text[1 : text.argmax()]}
    used: set[int] = set()
    for text in found:
        end = text.argmax()
        assert text[0] == Tokenizer.start_id and text[end] == Tokenizer.end_id
        assert not (text[1:end] >= Tokenizer.start_id).any() and not text[end + 1 :].any()
        used |= set(text[1:end])
    assert used == words
    assert len(np.unique(found, axis=0)) > ENOUGH / 2
    assert len({text.argmax() for text in found}) > len({text.argmax() for text in TEXTS[::2]})


def test_long_texts_stay_within_the_context() -> None:
    rows = Tokenizer()(["word " * 200, "a", "cat " * 200])
    found = measured_rows("text", rows)
    assert ((found == Tokenizer.end_id).sum(1) == 1).all() and (found[:, 0] == Tokenizer.start_id).all()


@pytest.mark.parametrize("tower", ["image", "text"])
def test_no_more_are_made_than_are_enough(tower: str) -> None:
    many = images(2 * ENOUGH + 8, 2, 2) if tower == "image" else np.repeat(TEXTS, ENOUGH, 0)
    assert np.array_equal(measured_rows(tower, many), many[::2])
    some = many[:40]
    assert len(measured_rows(tower, some)) == ENOUGH


def test_nothing_is_made_of_texts_without_words() -> None:
    rows = Tokenizer()(["", ""])
    assert np.array_equal(measured_rows("text", rows), rows[:1])
