"""classify, embed and search, on a folder with a small model."""

import errno
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.cli import image_files
from mobileclip_keras.converters.cli.app import app
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
    }.items():
        shown = " ".join(run(*arguments, status=1).split())
        assert message in shown and "Unexpected" not in shown, shown
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    shown = " ".join(run("embed", "photos", "--out", "found.parquet", "--model", folder, status=1).split())
    assert "mobileclip-keras[parquet]" in shown


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
