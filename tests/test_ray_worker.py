"""The embedder as a class for Ray Data, and what stands around it, without a cluster: Ray is not even imported."""

import sys
from pathlib import Path

import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.converters.cli.app import main
from mobileclip_keras.keras_models.errors import MissingPackageError
from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder
from mobileclip_keras.keras_models.tasks.embedding.errors import DataError, FingerprintError
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.finding import find_units
from mobileclip_keras.keras_models.tasks.embedding.on_ray.filling import fill_on_ray
from mobileclip_keras.keras_models.tasks.embedding.on_ray.reading import ids_of, is_among, row_of
from mobileclip_keras.keras_models.tasks.embedding.on_ray.worker import RayEmbedder
from mobileclip_keras.keras_models.tasks.embedding.on_ray.writing import ItemEmbedder
from mobileclip_keras.keras_models.tasks.embedding.reading import read_unit
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import FINGERPRINT, StubEmbedder, picture, pictures, shard
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")


@pytest.fixture(scope="module")
def folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model."""
    made = tmp_path_factory.mktemp("worker") / "model"
    small_model(form="inference", variant="mobileclip_s0").save_pretrained(made, preprocessor=mk.ImagePreprocessor(64))
    return made


@pytest.mark.backend
def test_a_worker_gives_the_bits_of_an_embedder(folder: Path) -> None:
    images = [picture(seed) for seed in range(7)]
    expected = Embedder.from_pretrained(folder, batch_size=4).images(images)
    content = np.array([*images[:3], b"broken", *images[3:], None], dtype=object)
    made = mk.RayEmbedder(str(folder), batch_size=4)({"image": content, "label": np.arange(9)})
    assert list(made) == ["image", "label", "features", "reason"] and made["features"].dtype == np.float32
    np.testing.assert_array_equal(made["features"][[0, 1, 2, 4, 5, 6, 7]], expected)
    assert not made["features"][[3, 8]].any()
    assert [bool(reason) for reason in made["reason"]] == [False] * 3 + [True] + [False] * 4 + [True]
    assert "not an image" in made["reason"][3] and "NoneType" in made["reason"][8]


def test_a_worker_embeds_texts_and_refuses_what_does_not_fit(folder: Path) -> None:
    texts = np.array(["a cat", None, "a dog"], dtype=object)
    embedder = Embedder.from_pretrained(folder)
    made = RayEmbedder(str(folder), "caption", "text", fingerprint=embedder.fingerprint)({"caption": texts})
    np.testing.assert_array_equal(made["features"][[0, 2]], embedder.texts(["a cat", "a dog"]))
    assert made["reason"].tolist() == ["", "A text must be a str, not NoneType.", ""]
    with pytest.raises(FingerprintError, match="the weights of the image tower"):
        RayEmbedder(str(folder), fingerprint=FINGERPRINT)
    with pytest.raises(FingerprintError, match="the weights of the image tower"):
        ItemEmbedder(str(folder), 4, FINGERPRINT)
    with pytest.raises(ValueError, match="kind must be one of image, text, not 'sound'"):
        RayEmbedder(str(folder), kind="sound")
    with pytest.raises(DataError, match="no column 'image'; the columns are caption"):
        RayEmbedder(str(folder))({"caption": texts})


def test_rows_of_a_cluster_have_the_vectors_and_the_reasons_of_one_machine(folder: Path, tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 3)
    Path(files[1]).write_bytes(b"broken")
    (tmp_path / "words.txt").write_text("a cat\n")
    archive = shard(tmp_path / "0.tar", {"a.png": picture(9), "b.png": b"broken"})
    data = [*files, str(archive), str(tmp_path / "words.txt"), "gone.png", "http://x/a.png"]
    embedder = Embedder.from_pretrained(folder, batch_size=4)
    fill(tmp_path / "store", data, embedder)
    store = Store.open(tmp_path / "store")
    rows = [row_of(item) for unit in find_units(data) for item in read_unit(unit)]
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
    made = ItemEmbedder(str(folder), 4, store.fingerprint)(columns)
    assert "content" not in made
    good = made["reason"] == ""
    right = {
        identity: vector.as_py()
        for part in store.parts()
        for batch in part.columns("id", "features")
        for identity, vector in zip(batch.column(0).to_pylist(), batch.column(1), strict=True)
    }
    found = dict(zip(map(bytes.fromhex, made["id"][good]), made["features"][good].tolist(), strict=True))
    assert found == right and len(found) == 4
    reasons = dict(zip(made["id"][~good], made["reason"][~good], strict=True))
    assert reasons == {each["id"]: each["reason"] for each in store.unreadable()} and len(reasons) == 4


def test_what_is_done_is_found_by_its_id(tmp_path: Path) -> None:
    fill(tmp_path / "store", [str(tmp_path / "photos")] if pictures(tmp_path / "photos", 50) else [], StubEmbedder())
    store = Store.open(tmp_path / "store")
    ids = ids_of(store)
    assert ids.shape == (50, 2) and all(is_among(each, ids) for each in store.ids())
    first = next(store.ids())
    assert not is_among(first[:-1] + bytes([first[-1] ^ 1]), ids) and not is_among(bytes(16), ids)
    assert not is_among(first, ids[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers needs --ray."),
        (["--gpus", "1"], "--gpus needs --ray."),
        (["--out", "a.npz", "--ray", "local"], "--ray is for a store, and a.npz is something else."),
    ],
)
def test_options_of_a_cluster_need_one(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["mobileclip-keras", "embed", "a.png", "--out", str(tmp_path / "store"), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1 and message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_without_ray_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"mobileclip-keras\[ray\]"):
        fill_on_ray(tmp_path / "store", pictures(tmp_path / "photos", 1), "s0")
    assert not (tmp_path / "store").exists()
