"""classify, embed and search, on a folder with a small model."""

import errno
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.cli import image_files
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.keras_models.models.features import encode
from mobileclip_keras.keras_models.tasks.embedding_files import EmbeddingFileError, Embeddings
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")

PHOTOS = Path(__file__).parents[1] / "verify" / "photos"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A converted folder, beside a folder of photographs."""
    folder = tmp_path / "model"
    folder.mkdir()
    keras.saving.save_model(small_model(form="inference", variant="mobileclip_s0"), folder, zipped=False)
    mk.ImagePreprocessor(64).save_pretrained(folder)
    below = tmp_path / "photos" / "below"
    below.mkdir(parents=True)
    (below / "cat.JPG").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    (below.parent / "rocket.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    (below.parent / ".hidden.jpg").write_bytes(b"")
    (below.parent / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output if status else result.stdout


def test_classify_gives_what_the_library_gives(folder: Path) -> None:
    Path("labels.txt").write_text("\ufeffa cat\n\n a rocket \n", encoding="utf-8")
    common = ("classify", "photos", "--model", folder, "--templates", "short")
    found = json.loads(run(*common, "--labels-file", "labels.txt", "--json", "--batch-size", 1))
    model = mk.MobileClipModel.from_pretrained(folder)
    expected = mk.ZeroShotClassifier(model, ["a cat", "a rocket"], "short").classify(
        ["photos/rocket.jpg", "photos/below/cat.JPG"]
    )
    assert [result["image"] for result in found["results"]] == ["photos/rocket.jpg", "photos/below/cat.JPG"]
    for result, predictions in zip(found["results"], expected, strict=True):
        assert [row["label"] for row in result["predictions"]] == [best.label for best in predictions]
        probabilities = [best.probability for best in predictions]
        assert [row["probability"] for row in result["predictions"]] == pytest.approx(probabilities, abs=1e-5)
    assert found["unreadable"] == []
    table = run(*common, "--labels", "a cat, a rocket,", "--top-k", 1)
    assert "rocket.jpg" in table and f"{expected[0][0].probability:.1%}" in table
    assert f"{expected[0][1].probability:.1%}" not in table


def test_unreadable_images_are_passed_over_and_counted(folder: Path) -> None:
    Path("photos/broken.png").write_bytes(b"\x89PNG nothing more")
    common = ("classify", "--model", folder, "--labels", "cat,dog", "--json")
    result = CliRunner().invoke(app, [*map(str, common), "photos/*.jpg", "photos", "gone.jpg"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [row["image"] for row in found["results"]] == ["photos/rocket.jpg", "photos/below/cat.JPG"]
    assert [row["image"] for row in found["unreadable"]] == ["photos/broken.png", "gone.jpg"]
    assert "Passed over 2 of 4 images" in result.stderr
    assert json.loads(CliRunner().invoke(app, [*map(str, common), "gone.jpg"]).stdout)["results"] == []
    shown = run("classify", "gone.jpg", "--model", folder, "--labels", "cat", status=1)
    assert "gone.jpg does not exist" in shown and "1 of 1" in shown


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed_then_search(folder: Path, suffix: str) -> None:
    Path("texts.txt").write_text("a cat\na rocket\n")
    out = Path(f"found{suffix}")
    arguments = ("embed", "photos", "--out", out, "--model", folder, "--texts-file", "texts.txt")
    facts = json.loads(run(*arguments, "--batch-size", 2, "--json"))
    assert (facts["images"], facts["texts"], facts["embed_dim"]) == (2, 2, 16)
    stored = Embeddings.load(out)
    model = mk.MobileClipModel.from_pretrained(folder)
    assert stored.names == ("photos/rocket.jpg", "photos/below/cat.JPG") and stored.texts == (
        "a cat",
        "a rocket",
    )
    images = keras.ops.convert_to_numpy(model.encode_image(mk.ImagePreprocessor(64)(list(stored.names))))
    texts = keras.ops.convert_to_numpy(model.encode_text(mk.Tokenizer()(list(stored.texts))))
    np.testing.assert_allclose(stored.features, images, atol=1e-5)
    np.testing.assert_allclose(stored.text_features, texts, atol=1e-5)
    assert stored.features.dtype == np.float32

    found = json.loads(run("search", "a cat", "a rocket", "--in", out, "--top-k", 1, "--json"))
    for result, scores in zip(found["results"], texts @ images.T, strict=True):
        (match,) = result["matches"]
        # The small model's scores may be equal but for rounding: either image is then the best.
        assert scores[stored.names.index(match["name"])] >= scores.max() - 1e-6
        assert match["score"] == pytest.approx(scores.max(), abs=1e-5)
    assert "rocket.jpg" in run("search", "a cat", "--in", out)

    before = out.read_bytes()
    assert "exists already" in run(*arguments, status=1)
    assert out.read_bytes() == before
    run(*arguments, "--force")
    assert sorted(path.name for path in Path().glob("*found*")) == [out.name]


def test_a_store_is_filled_continued_and_searched(folder: Path) -> None:
    Path("photos/broken.png").write_bytes(b"\x89PNG nothing more")
    shutil.copy("photos/rocket.jpg", "photos/twin.jpg")
    Path("words.txt").write_text("a cat\na rocket\n")
    first = CliRunner().invoke(
        app, ["embed", "photos", "words.txt", "--out", "store", "--model", str(folder), "--json"]
    )
    assert first.exit_code == 3 and "1 could not be read" in first.stderr, first.output
    facts = json.loads(first.stdout)
    assert (facts["new"], facts["rows"], facts["embed_dim"], facts["dtype"]) == (5, 5, 16, "float32")
    assert [row["name"] for row in facts["unreadable"]] == ["photos/broken.png"]
    Path("photos/broken.png").unlink()
    shown = run("embed", "photos", "--out", "store")  # the model is the store's
    assert "Embedded 0 into store" in shown and "3 were there before" in shown

    model = mk.MobileClipModel.from_pretrained(folder)
    names = ["photos/rocket.jpg", "photos/twin.jpg", "photos/below/cat.JPG"]
    images = encode(model, "image", mk.ImagePreprocessor(64)(names))
    text = encode(model, "text", mk.Tokenizer()("a cat"))[0]
    common = ("--in", "store", "--json")
    found = json.loads(run("search", "a cat", "--image", names[2], *common))["results"]
    assert [each["query"] for each in found] == ["a cat", names[2]]
    for result, query in zip(found, (text, images[2]), strict=True):
        scores = dict(zip(names, (images @ query).tolist(), strict=True))
        assert {match["name"]: match["score"] for match in result["matches"]} == pytest.approx(scores, abs=1e-5)
    (both,) = json.loads(run("search", "a cat", "--image", names[2], "--weights", "1,3", *common))["results"]
    mixed = text + 3 * images[2]
    score = {match["name"]: match["score"] for match in both["matches"]}[names[0]]
    assert score == pytest.approx(images[0] @ mixed / np.linalg.norm(mixed), abs=1e-5)
    (words,) = json.loads(run("search", "a cat", "--kind", "text", "--top-k", 1, *common))["results"]
    assert words["matches"][0] == {"name": "a cat", "score": pytest.approx(1, abs=1e-5)}

    (near,) = json.loads(run("neighbours", names[0], "--top-k", 1, *common))["results"]
    assert near["matches"] == [{"name": names[1], "score": pytest.approx(1, abs=1e-5)}]
    (other,) = json.loads(run("neighbours", folder.parent / names[0], "--top-k", 2, *common))["results"]
    assert {match["name"] for match in other["matches"]} == set(names[:2])
    groups = json.loads(run("duplicates", "store", "--near", 0.999999, "--json"))["groups"]
    # All pictures look nearly alike to the small model.
    assert set(names[:2]) <= {match["name"] for match in groups[0]}
    assert "3 of 3 images are in 1 groups" in run("duplicates", "store", "--near", 0.01)


def test_a_store_of_another_model_is_not_searched(folder: Path) -> None:
    run("embed", "photos", "--out", "store", "--model", folder, "--dtype", "float16")
    mk.ImagePreprocessor(64, mean=(0.5, 0.5, 0.5)).save_pretrained(folder)
    shown = " ".join(run("search", "--image", "photos/rocket.jpg", "--in", "store", status=1).split())
    assert "the preprocessing of images (Pillow bilinear to 64 px, mean 0 0 0, std 1 1 1 there, " in shown
    assert "mean 0.5 0.5 0.5" in shown and "weights of" not in shown
    assert (
        "Warning"
        in CliRunner().invoke(app, ["search", "--image", "photos/rocket.jpg", "--in", "store", "--anyway"]).stderr
    )
    run("search", "a cat", "--in", "store")  # a text goes through no preprocessing
    shown = " ".join(run("embed", "photos", "--out", "store", status=1).split())
    assert "the preprocessing of images" in shown
    changed = small_model(form="inference", variant="mobileclip_s0")
    changed.text_encoder.weights[0].assign(changed.text_encoder.weights[0] + 1)
    (folder / "assets").rmdir()
    keras.saving.save_model(changed, folder, zipped=False)
    shown = " ".join(run("search", "a cat", "--in", "store", status=1).split())
    assert "the weights of the text tower (" in shown and "Use what made them" in shown


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_full_disk_leaves_nothing(folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    shown = run("embed", "photos", "--out", f"found{suffix}", "--model", folder, status=1)
    assert "no space left on device. Nothing was left behind" in " ".join(shown.split())
    assert not [path for path in Path().iterdir() if "found" in path.name]


def test_what_cannot_be_done_is_said_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classify = ("classify", "photos", "--model", folder)
    Path("empty").mkdir()
    Path("latin.txt").write_bytes("Käse".encode("latin-1"))
    for message, arguments in {
        "Give --labels or --labels-file": classify,
        "'cat' is there twice": (*classify, "--labels", "cat,cat"),
        "'photo' is no template": (*classify, "--labels", "cat", "--templates", "photo"),
        "empty leads to no image": ("classify", "empty", "--labels", "cat", "--model", folder),
        "*.gif leads to no image": ("classify", "*.gif", "--labels", "cat", "--model", folder),
        "latin.txt is not a UTF-8": (*classify, "--labels-file", "latin.txt"),
        "must end in .npz or .parquet": ("embed", "photos", "--out", "found.csv", "--model", folder),
        "is not a folder that": ("embed", "photos", "--out", "none/found.npz", "--model", folder),
        "found.npz does not exist": ("search", "a cat", "--in", "found.npz"),
        "Give words to look for, or --image": ("search", "--in", "found.npz"),
        "photos is no store": ("search", "a cat", "--in", "photos"),
        "photos holds other files and is no store": ("embed", "photos", "--out", "photos", "--model", folder),
        "--dtype must be float32 or float16": ("embed", "photos", "--out", "store", "--dtype", "int8"),
        "--dtype is for a store": ("embed", "photos", "--out", "a.npz", "--dtype", "float16"),
        "--force is for one file": ("embed", "photos", "--out", "store", "--force"),
        "empty leads to nothing": ("embed", "empty", "--out", "store", "--model", folder),
        "gone does not exist": ("index", "gone"),
        "must be numbers between commas": ("search", "a", "--weights", "a,b", "--in", "found.npz"),
        "--kind must be image or text": ("search", "a", "--kind", "sound", "--in", "found.npz"),
    }.items():
        shown = " ".join(run(*arguments, status=1).split())
        assert message in shown and "Unexpected" not in shown, shown
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    shown = " ".join(run("embed", "photos", "--out", "found.parquet", "--model", folder, status=1).split())
    assert "mobileclip-keras[parquet]" in shown
    shown = " ".join(run("embed", "photos", "--out", "store", "--model", folder, status=1).split())
    assert "Stores and Parquet files need pyarrow" in shown and not Path("store").exists()


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_files_that_hold_no_embeddings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 or something else")
    with pytest.raises(EmbeddingFileError, match="does not hold embeddings"):
        Embeddings.load(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": np.array([["x"]])}, "its features are of type <U"),
        ({"features": np.zeros(3)}, r"1 names for features of shape \(3,\)"),
        ({"features": np.zeros((2, 3))}, r"1 names for features of shape \(2, 3\)"),
        ({"texts": np.array(["a"])}, r"1 texts for features of shape \(0, 3\)"),
        ({"names": np.array(1)}, "its names are of type int64"),
        ({"features": np.full((1, 3), np.nan)}, "not all of its numbers are finite"),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path: Path, changed: dict, message: str) -> None:
    good = Embeddings("model", ("a",), np.ones((1, 3), np.float32), (), np.empty((0, 3), np.float32))
    good.save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        np.savez(tmp_path / "bad.npz", **{**file, **changed})
    with pytest.raises(EmbeddingFileError, match=message):
        Embeddings.load(tmp_path / "bad.npz")


def test_batches_are_sized_to_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_free_memory", lambda: 8 << 30)
    assert image_files.batch_size_for(256, 1000) == 27
    assert image_files.batch_size_for(256, 3) == 3
    assert image_files.batch_size_for(64, 1000) == image_files.LARGEST_BATCH
    monkeypatch.setattr(image_files, "_free_memory", lambda: 1 << 20)
    assert image_files.batch_size_for(256, 1000) == 1
