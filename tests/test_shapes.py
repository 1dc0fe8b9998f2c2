"""The generated world: pictures that show what their scenes say, captions that are true, words that have rows."""

from dataclasses import replace

import numpy as np
import pytest

from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.verify.shapes.captions import SHAPE_WORDS, describe
from mobileclip_keras.verify.shapes.drawing import RGB, draw
from mobileclip_keras.verify.shapes.scene import (
    CHOICES,
    COLOURS,
    COUNTS,
    FIELDS,
    NONE,
    POSITIONS,
    SHAPES,
    TEXTURES,
    Scene,
    is_held_out,
    neighbour,
    random_scene,
)
from mobileclip_keras.verify.shapes.task import NAMES, Accuracy, accuracy, parts
from mobileclip_keras.verify.shapes.vocabulary import UNKNOWN, Vocabulary, with_unknown_words

WORDS = Vocabulary.of_captions()
ONE_RED_CIRCLE = Scene(
    count=1, colour=0, shape=0, texture=0, position=4, size=1, pattern=0, background=COLOURS.index("white")
)


def scenes(count: int, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(5)
    return [random_scene(rng, held_out) for _ in range(count)]


def test_each_shape_has_two_colours_that_training_never_sees() -> None:
    held = np.array([[is_held_out(colour, shape) for shape in range(len(SHAPES))] for colour in range(len(COLOURS))])
    assert set(held.sum(0)) == {2} and max(held.sum(1)) == 2


def test_training_never_sees_a_held_out_pair_and_the_task_nothing_else() -> None:
    rng = np.random.default_rng(0)
    seen = [scene for first in scenes(500) for scene in (first, *(neighbour(first, rng) for _ in range(3)))]
    assert not any(is_held_out(scene.colour, scene.shape) for scene in seen if scene.count)
    assert all(is_held_out(scene.colour, scene.shape) for scene in scenes(300, held_out=True) if scene.count)


def test_scenes_are_possible_and_show_every_value_of_every_field() -> None:
    found = scenes(4000)
    for name, count in CHOICES.items():
        values = {getattr(scene, name) for scene in found} - {NONE}
        assert values == set(range(count)), name
    for scene in found:
        assert scene.colour == NONE or scene.colour not in (scene.background, scene.second)
        assert scene.pattern == 0 or scene.texture in (NONE, TEXTURES.index("filled"))
        assert (scene.position != NONE) == (scene.size != NONE) == (scene.count == 1)


def test_neighbours_differ_in_one_thing() -> None:
    rng = np.random.default_rng(1)
    together = ({"count", "position", "size"}, {"texture", "size"}, {"pattern", "background", "second"})
    for scene in scenes(300):
        if scene.count:
            other = neighbour(scene, rng)
            changed = {name for name in FIELDS if getattr(scene, name) != getattr(other, name)}
            assert len(changed) <= 1 or any(changed <= group for group in together), changed


def test_a_picture_depends_on_its_scene_and_its_seed_alone() -> None:
    first, again, other = (draw(ONE_RED_CIRCLE, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert draw(ONE_RED_CIRCLE, np.random.default_rng(7), size=200).size == (200, 200)


@pytest.mark.parametrize("colour", range(len(COLOURS)), ids=COLOURS)
def test_the_colour_that_is_said_is_the_one_that_is_drawn(colour: int) -> None:
    behind = COLOURS.index("black" if COLOURS[colour] == "white" else "white")
    scene = replace(ONE_RED_CIRCLE, colour=colour, background=behind)
    pixels = np.asarray(draw(scene, np.random.default_rng(2), plain=True), np.float64)
    for place, wanted in ((pixels[32, 32], colour), (pixels[2, 2], behind)):
        nearest = min(RGB, key=lambda name: float(np.abs(place - RGB[name]).sum()))
        assert nearest == COLOURS[wanted]


@pytest.mark.parametrize("position", range(len(POSITIONS)), ids=POSITIONS)
def test_the_position_that_is_said_is_where_it_is(position: int) -> None:
    scene = replace(ONE_RED_CIRCLE, position=position)
    for seed in range(5):
        pixels = np.asarray(draw(scene, np.random.default_rng(seed), plain=True), np.float64)
        y, x = np.argwhere(pixels[..., 1] < 128).mean(0)  # red on white
        assert (int(y * 3 // 64), int(x * 3 // 64)) == divmod(position, 3)


def test_as_many_shapes_are_drawn_as_are_said() -> None:
    area = {}
    for count in range(1, 6):
        scene = replace(ONE_RED_CIRCLE, count=count, position=NONE, size=NONE)
        if count == 1:
            scene = replace(ONE_RED_CIRCLE, size=0)
        pixels = np.asarray(draw(scene, np.random.default_rng(3), plain=True), np.int64)
        area[count] = _blobs(pixels[..., 1] < 100)
    assert area == {count: count for count in range(1, 6)}


def _blobs(mask: np.ndarray) -> int:
    """How many regions of True there are."""
    left, count = {(int(y), int(x)) for y, x in np.argwhere(mask)}, 0
    while left:
        todo, count = [left.pop()], count + 1
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
    return count


def test_captions_say_only_what_there_is_in_words_that_have_rows() -> None:
    rng, texts = np.random.default_rng(4), []
    for scene in scenes(1000):
        caption = describe(scene, rng)
        assert all(said in (NONE, getattr(scene, name)) for name, said in vars(caption.says).items())
        assert any(said != NONE for said in vars(caption.says).values())
        texts.append(caption.text)
        words = set(caption.text.replace(".", " ").replace(",", " ").split())
        if caption.says.shape != NONE:
            forms = {form.split()[0] for pair in SHAPE_WORDS[SHAPES[scene.shape]] for form in pair}
            assert words & forms, caption.text
        elif scene.count:
            assert SHAPES[scene.shape] not in words
    assert not (WORDS.rows(texts) == UNKNOWN).any()


def test_there_are_many_wordings() -> None:
    rng = np.random.default_rng(0)
    assert len({describe(ONE_RED_CIRCLE, rng).text for _ in range(500)}) > 200


def test_rows_stand_for_the_tokenizers_own_ids() -> None:
    texts = ["a red circle", "three striped stars, drawn by hand"]
    rows, ids = WORDS.rows(texts), Tokenizer()(texts)
    assert (WORDS.ids[rows - 1] == ids).all()
    assert (rows.argmax(1) == ids.argmax(1)).all(), "the end of a text stays the highest number"
    assert (WORDS.rows(["a zebra"]) == UNKNOWN).sum() >= 1
    small = np.random.default_rng(0).normal(size=(len(WORDS), 3))
    whole = WORDS.embedding(small)
    assert whole.shape == (49408, 3)
    assert (whole[ids] == small[rows]).all()
    assert (whole[Tokenizer()(["zebra"])[0, 1]] == small[UNKNOWN]).all()


def test_unknown_words_are_put_between_the_first_and_the_last() -> None:
    rows = WORDS.rows(["a red circle"] * 200)
    changed = with_unknown_words(rows, np.random.default_rng(0), share=0.5)
    unknown = (changed == UNKNOWN).sum(1)
    assert set(unknown) == {0, 1, 2, 3} and 60 < (unknown > 0).sum() < 140
    for row, original in zip(changed, rows, strict=True):
        kept = row[row != UNKNOWN]
        assert (kept == original[: len(kept)]).all() and row[0] == original[0]


def test_the_task_asks_all_labels_and_gives_the_same_pictures_again() -> None:
    few, more = parts(3, ("object", "count")), parts(5, ("object", "count"))
    for one, other in zip(few, more, strict=True):
        assert (one.images == other.images[:3]).all() and (one.answers == other.answers[:3]).all()
    labels = {part.name: part.labels for part in parts(1)}
    pairs = len(COLOURS) * len(SHAPES)
    assert tuple(labels) == NAMES
    assert len(labels["object"]) == pairs and len(labels["count"]) == pairs * (len(COUNTS) - 1)
    assert len(labels["position"]) == pairs * len(POSITIONS) and len(labels["texture"]) == pairs * len(TEXTURES)
    assert all(len(set(names)) == len(names) for names in labels.values())
    assert "an orange star" in labels["object"] and "three red crosses" in labels["count"]
    assert "a blue moon in the top left" in labels["position"]
    assert "an outlined red circle" in labels["texture"]
    assert "a red circle on a blue background" in labels["background"]
    assert "a red circle on a red background" not in labels["background"]


def test_each_question_asks_one_thing() -> None:
    sizes = {"object": {77}, "count": {5}, "position": {9}, "texture": {4}, "background": set(range(7, 11))}
    for part in parts(6):
        for row, answer in zip(part.offered, part.answers, strict=True):
            offered = [label for label, there in zip(part.labels, row, strict=True) if there]
            assert row[answer] and len(offered) in sizes[part.name]
            if part.name != "object":
                shared = set.intersection(*(set(label.split()) for label in offered))
                assert shared & set(COLOURS), "all name the picture's own colour"


def test_accuracy_counts_right_answers() -> None:
    asked = parts(4, ("object", "texture"))
    codes = {label: np.eye(800)[i] for part in asked for i, label in enumerate(part.labels)}
    answers = {part.images.tobytes(): part.answers for part in asked}

    def encode_images(images: np.ndarray) -> np.ndarray:
        known = np.eye(800)[answers[images.tobytes()]]
        known[0] = np.eye(800)[799]  # as good as any: the first label is taken
        return known * 7  # of any length

    def encode_texts(texts: list[str]) -> np.ndarray:
        return np.stack([codes[text] for text in texts])

    found = accuracy(encode_images, encode_texts, asked)
    assert found.asked == {"object": 4, "texture": 4}
    assert all(found.right[name] in (3, 4) for name in found.asked)


def test_the_interval_is_wilsons() -> None:
    found = Accuracy({"object": 45, "count": 45}, {"object": 50, "count": 50})
    assert found.overall == 0.9
    assert found.interval == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert str(found) == "90.0% (82.6% to 94.5%): object 90.0%, count 90.0%"
