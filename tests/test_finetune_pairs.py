"""Pairs for fine-tuning: read, checked, held back and put into batches, from every layout."""

from pathlib import Path

import numpy as np
import pytest

from mobileclip_keras.converters.tuning import validation
from mobileclip_keras.converters.tuning.history import Recall
from mobileclip_keras.converters.tuning.pairs.batches import Feeder
from mobileclip_keras.converters.tuning.pairs.checking import Checked, check
from mobileclip_keras.converters.tuning.pairs.holding_back import hold_back
from mobileclip_keras.converters.tuning.pairs.opening import open_pairs
from mobileclip_keras.converters.tuning.pairs.pair import Pair
from mobileclip_keras.converters.tuning.validation import recall
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from tests.datasets import CLASSES, members, rows, write_tar
from tests.finetune_support import square, write_classes, write_images, write_table

PREPROCESS = ImagePreprocessor(32)


def checked(data: Path | str, skip_broken: bool = False, **options: str) -> Checked:
    return check(open_pairs(str(data), **options), PREPROCESS, skip_broken)


def refused(data: Path | str, **options: str) -> str:
    with pytest.raises(MobileClipError) as caught:
        checked(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("header", [("image", "caption"), ("File Name", "TEXT"), ("path", "title")])
def test_tables_are_read_by_the_names_of_their_columns(tmp_path: Path, suffix: str, header: tuple[str, str]) -> None:
    found = checked(write_table(tmp_path / f"pairs{suffix}", 6, header))
    assert [pair.texts for pair in found.pairs] == [(square(n)[1],) for n in range(6)]
    assert [pair.image.read() for pair in found.pairs if pair.image] == [square(n)[0] for n in range(6)]
    assert found.pairs[0].where == f"pairs{suffix}, row {1 if suffix == '.jsonl' else 2}"
    assert found.fingerprint == checked(tmp_path / f"pairs{suffix}").fingerprint


def test_columns_can_be_named_and_are_listed_where_none_is_found(tmp_path: Path) -> None:
    table = write_table(tmp_path / "pairs.csv", 4, ("a", "b"))
    assert len(checked(table, image_column="a", text_column="b").pairs) == 4
    said = refused(table)
    assert "has no column of images. Its columns are: a, b." in said and "--image-column" in said
    assert "has no column 'c'. Its columns are: a, b." in refused(table, image_column="a", text_column="c")
    assert "cannot be the column of images and that of texts" in refused(table, image_column="a", text_column="a")


def test_other_separators_quotes_and_byte_order_marks(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    table = tmp_path / "pairs.csv"
    table.write_bytes('\ufeffimage;text\r\n0.png;"one; two"\r\n\r\n1.png;"two\nlines"\r\n2.png;three\r\n'.encode())
    found = checked(table)
    assert [pair.texts[0] for pair in found.pairs] == ["one; two", "two\nlines", "three"]
    assert [pair.where for pair in found.pairs] == [f"pairs.csv, row {row}" for row in (2, 4, 6)]


def test_a_row_of_json_may_have_several_captions(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    table = tmp_path / "pairs.jsonl"
    table.write_text('{"image": "0.png", "text": ["a", "b"]}\n{"image": "1.png", "text": "c"}\n')
    pairs = checked(table).pairs
    assert [pair.texts for pair in pairs] == [("a", "b"), ("c",)]
    feeder = Feeder(pairs, PREPROCESS, Tokenizer(), 2, seed=0)
    seen = {tuple(batch["text"].ravel()) for number in range(12) for batch in feeder.epoch(number)}
    assert len(seen) == 4, "each caption with both orders"


def test_every_problem_is_named_by_file_and_row_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    (tmp_path / "broken.png").write_bytes(square(0)[0][:90])
    (tmp_path / "text.png").write_text("no image")
    table = tmp_path / "pairs.csv"
    lines = ["image,text", "0.png,a", "1.png,b", "gone.png,c", "broken.png,d", "text.png,e", "2.png, ", ",f", "2.png"]
    table.write_text("\n".join([*lines, "https://a.b/c.png,g"]) + "\n")
    said = refused(table)
    assert said.startswith("7 of 9 pairs in ") and "Mend them, or leave them out with --skip-broken." in said
    for row, words in (
        (4, "gone.png does not exist."),
        (5, "broken.png cannot be read"),
        (6, "text.png is not an image"),
        (7, "the text in 'text' is empty."),
        (8, "there is no image in 'image'."),
        (9, "it has 1 cells, and the first row has 2."),
        (10, "is a URL, and URLs are not fetched."),
    ):
        assert any(line.startswith(f"pairs.csv, row {row}: ") and words in line for line in said.splitlines()), row
    found = checked(table, skip_broken=True)
    assert len(found.pairs) == 2 and len(found.problems) == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty: it holds no pairs"),
        ("image,text\n", "holds no pairs"),
        ("image,text\n0.png,a\n", "holds one pair alone"),
        ("image,text\n0.png,a\n1.png,a\n", "has one text alone, which all 2 images share"),
        ("0.png,a\n1.png,b\n", "has no column of images. Its columns are: 0.png, a."),
    ],
)
def test_what_cannot_be_learned_from_is_said(tmp_path: Path, content: str, words: str) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "pairs.csv").write_text(content)
    assert words in refused(tmp_path / "pairs.csv")


def test_damaged_tables_are_named_by_row(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "latin.csv").write_bytes("image,text\n0.png,a\n1.png,Stra\u00dfe\n".encode("latin-1"))
    assert "latin.csv, row 3, is not UTF-8" in refused(tmp_path / "latin.csv")
    (tmp_path / "pairs.jsonl").write_text('{"image": "0.png", "text": "a"}\n{"image": "1.png"\n[1]\n')
    said = refused(tmp_path / "pairs.jsonl")
    assert "pairs.jsonl, row 2: " in said and "pairs.jsonl, row 3: it is no JSON object." in said
    (tmp_path / "pairs.csv").write_text('image,text\n0.png,"a\n1.png,b\n')
    assert "pairs.csv, row 2: this and what follows cannot be read" in refused(tmp_path / "pairs.csv")


def test_class_folders_and_their_captions(tmp_path: Path) -> None:
    found = checked(write_classes(tmp_path / "squares"))
    assert found.classes == tuple((f"a photo of a {name}.",) for name in ("blue", "green", "red", "white"))
    assert [pair.label for pair in found.pairs] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    written = open_pairs(str(tmp_path / "squares"), templates=("a {c} one", "the {c}"))
    assert written.pairs[-1].texts == ("a white one", "the white")
    write_classes(tmp_path / "split" / "train", classes=2)
    write_classes(tmp_path / "split" / "test", classes=3)
    assert len(checked(tmp_path / "split").classes) == 2
    write_classes(tmp_path / "one", classes=1)
    assert "has one class alone, 'red'" in refused(tmp_path / "one")
    write_images(tmp_path / "flat", 3)
    assert "holds neither shards (.tar) nor folders of images" in refused(tmp_path / "flat")


def test_shards_with_captions_and_with_classes(tmp_path: Path) -> None:
    captioned, labelled = rows(7, "retrieval"), rows(7)
    write_tar(tmp_path / "0.tar", [each for n, row in enumerate(captioned[:4]) for each in members(n, row)])
    write_tar(tmp_path / "1.tar", [each for n, row in enumerate(captioned[4:], 4) for each in members(n, row)])
    found = checked(tmp_path)
    assert [pair.texts for pair in found.pairs] == [target for _, target in captioned]
    assert [pair.image.read() for pair in found.pairs if pair.image] == [image for image, _ in captioned]
    assert len(checked(tmp_path / "0.tar").pairs) == 4 and len(checked(tmp_path / "*.tar").pairs) == 7
    classes = tmp_path / "classes"
    (classes / "train").mkdir(parents=True)
    write_tar(classes / "train" / "0.tar", [each for n, row in enumerate(labelled) for each in members(n, row)])
    assert "has no .txt, and no classnames.txt stands beside the shards" in refused(classes)
    (classes / "classnames.txt").write_text("\n".join(CLASSES))
    for name in (classes, classes / "train" / "0.tar", classes / "train" / "*.tar"):
        assert [pair.label for pair in checked(name).pairs] == [target for _, target in labelled]
        assert len(checked(name).classes) == len(CLASSES)
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:3000])
    write_tar(tmp_path / "2.tar", [("a.png", b"no"), ("a.txt", b"text"), ("b.txt", b"text"), ("c.png", square(1)[0])])
    said = refused(tmp_path)
    assert "1.tar: it is damaged" in said and "2.tar, row 1 (a): its image is not an image" in said
    assert "2.tar, row 2 (b): it has no image" in said and "2.tar, row 3 (c): it has no .txt" in said


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    assert "There is no file or folder" in refused(tmp_path / "nothing.csv")
    assert "leads to no shards" in refused(tmp_path / "*.tar")
    (tmp_path / "pairs.xlsx").write_text("")
    assert "is none of the files that pairs are read from: .csv, .tsv, .jsonl" in refused(tmp_path / "pairs.xlsx")


def test_the_same_pairs_are_held_back_and_no_image_is_on_both_sides(tmp_path: Path) -> None:
    write_images(tmp_path, 30)
    table = tmp_path / "pairs.csv"
    table.write_text("image,text\n" + "".join(f"{n % 29}.png,text {n}\n" for n in range(58)))
    found = checked(table)
    train, held = hold_back(found, 0.2, seed=3)
    assert held is not None and len(held.pairs) == 12 and len(train.pairs) == 46
    assert not {*train.digests} & {*held.digests}
    again = hold_back(checked(table), 0.2, seed=3)
    assert again[1] == held and hold_back(found, 0.2, seed=4)[1] != held
    assert hold_back(found, 0, 0) == (found, None)
    assert hold_back(checked(write_table(tmp_path / "few" / "pairs.csv", 5)), 0.5, 0)[1] is None


def test_an_epoch_has_each_pair_once_and_goes_on_in_its_middle(tmp_path: Path) -> None:
    pairs = checked(write_table(tmp_path / "pairs.csv", 11)).pairs
    feeder = Feeder(pairs, PREPROCESS, Tokenizer(), 3, seed=5)
    assert feeder.steps == 3
    whole = list(feeder.epoch(2))
    assert whole[0]["image"].shape == (3, 32, 32, 3) and whole[0]["text"].shape == (3, 77)
    rows_seen = {bytes(text) for batch in whole for text in batch["text"]}
    assert len(rows_seen) == 9
    for name in ("image", "text"):
        late = np.concatenate([batch[name] for batch in feeder.epoch(2, start=1)])
        np.testing.assert_array_equal(late, np.concatenate([batch[name] for batch in whole[1:]]))
    other = list(feeder.epoch(3))
    assert any((a["text"] != b["text"]).any() for a, b in zip(whole, other, strict=True))
    own = {bytes(Tokenizer()([pair.texts[0]])[0].astype(np.int32)): pair for pair in pairs}
    for batch in whole:
        for image, text in zip(batch["image"], batch["text"], strict=True):
            np.testing.assert_array_equal(image, PREPROCESS(own[bytes(text)].image.read())[0])


def test_an_image_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    pairs = checked(write_table(tmp_path / "pairs.csv", 4)).pairs
    (tmp_path / "2.png").unlink()
    with pytest.raises(MobileClipError, match=r"The data changed while it was read: .*2\.png does not exist"):
        list(Feeder(pairs, PREPROCESS, Tokenizer(), 2, seed=0).epoch(0))


def test_recall_counts_texts_that_pairs_share_as_right() -> None:
    pairs = [Pair("", texts=texts) for texts in (("a",), ("a",), ("b", "c"))]
    images = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], np.float32)
    texts = np.array([[0.95, 0.05, 0], [0, 0.8, 0.2], [0, 0.2, 0.9]], np.float32)
    assert recall(images, texts, pairs, ["a", "b", "c"]) == Recall(1.0, 1.0)
    swapped = recall(images, texts[::-1], pairs, ["a", "b", "c"])
    assert swapped == Recall(0.0, 1 / 3) and Recall(0.5).mean == 0.5 and Recall(0.5, 1.0).mean == 0.75


def test_of_classes_the_accuracy_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = checked(write_classes(tmp_path / "squares"))
    colours = {"a photo of a blue.": 2, "a photo of a green.": 1, "a photo of a red.": 0, "a photo of a white.": 1}

    def encode(_: object, key: str, rows: np.ndarray, fill: bool) -> np.ndarray:
        found = [row.reshape(-1, 3).mean(0) for row in rows] if key == "image" else [np.eye(3)[row] for row in rows]
        return np.asarray([each / np.linalg.norm(each) for each in found])

    monkeypatch.setattr(validation, "encode", encode)
    found = validation.measure(None, data, PREPROCESS, lambda texts: [colours[text] for text in texts])  # type: ignore
    assert found == Recall(0.75), "a white square is no greener than white, and green stands first"
