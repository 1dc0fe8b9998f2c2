"""Weights files from strangers: nothing but finite numbers that lie in the file itself is read."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store import weights_file

from .small import small_model

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers")]

WEIGHTS = "model.weights.h5"
SECRET = b"root:x:0:0:secret of this machine" * 200


@pytest.fixture(scope="module")
def saved(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two towers, and one of another backbone, which Keras' own reader reads."""
    place = tmp_path_factory.mktemp("saved")
    small_model("small_vit", "small_transformer", form="inference").save_pretrained(place / "own")
    inputs = keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="only")(inputs))
    MobileClipModel(MobileClipImageEncoder(backbone, 8, image_size=32)).save_pretrained(place / "other")
    return place


@pytest.fixture(params=["own", "other"])
def folder(saved: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(saved / request.param, tmp_path / "folder"))


def dataset_of(file: h5py.File) -> str:
    """A weight with many numbers."""
    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and item.size > 60 else None
    )
    return found[0]


def external_storage(file: h5py.File, name: str, secret: Path) -> None:
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape=shape, dtype="<f4", external=[(str(secret), 0, int(np.prod(shape)) * 4)])


def external_link(file: h5py.File, name: str, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["a"] = np.zeros(file[name].shape, np.float32)
    del file[name]
    file[name] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "a")


def external_group(file: h5py.File, name: str, secret: Path) -> None:
    group = name.rpartition("/")[0]
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        file.copy(group, other, "a")
    del file[group]
    file[group] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "a")


def soft_link(file: h5py.File, name: str, secret: Path) -> None:
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def virtual(file: h5py.File, name: str, secret: Path) -> None:
    shape = file[name].shape
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["a"] = np.zeros(shape, np.float32)
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "a", shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def replaced(**options: Any) -> Callable[..., None]:
    def damage(file: h5py.File, name: str, secret: Path) -> None:
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, **{"shape": shape, **options})

    return damage


def large_chunk(file: h5py.File, name: str, secret: Path) -> None:
    shape = file[name].shape
    del file[name]
    chunks = (1 << 22, *(1,) * (len(shape) - 1))
    file.create_dataset(name, shape, "<f4", chunks=chunks, maxshape=(None,) * len(shape), compression="gzip")


def bomb(file: h5py.File, name: str, secret: Path) -> None:
    """A chunk of the right size on paper, which unpacks to a hundred times as much."""
    import zlib

    shape = file[name].shape
    del file[name]
    made = file.create_dataset(name, shape, "<f4", chunks=shape, compression="gzip")
    made.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(int(np.prod(shape)) * 400)))


def short_chunk(file: h5py.File, name: str, secret: Path) -> None:
    """Unpacks to less than the shape, and HDF5 would fill the rest from memory that is not the file's."""
    import zlib

    shape = file[name].shape
    del file[name]
    made = file.create_dataset(name, shape, "<f4", chunks=shape, compression="gzip")
    made.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(4)))


def numbers(value: float) -> Callable[..., None]:
    def damage(file: h5py.File, name: str, secret: Path) -> None:
        array = file[name][...]
        array.flat[3] = value
        file[name][...] = array

    return damage


def text(file: h5py.File, name: str, secret: Path) -> None:
    shape = file[name].shape
    del file[name]
    file[name] = np.full(shape, "a", dtype="S4")


def in_a_circle(file: h5py.File, name: str, secret: Path) -> None:
    parent = file[name].parent.parent
    parent["again"] = parent
    parent["and"] = parent


BAD: dict[str, tuple[Callable[..., None], str]] = {
    "external storage": (external_storage, "lies in another file"),
    "external link": (external_link, "is a link"),
    "external group": (external_group, "is a link"),
    "soft link": (soft_link, "is a link"),
    "virtual": (virtual, "put together from other datasets"),
    "never written": (replaced(dtype="<f4"), "holds less than its shape says"),
    "chunks never written": (replaced(dtype="<f4", chunks=True), "lacks some of its chunks"),
    "large chunk": (large_chunk, "chunks larger than itself"),
    "bomb": (bomb, "a chunk of another size"),
    "short chunk": (short_chunk, "a chunk of another size"),
    "lzf": (replaced(dtype="<f4", compression="lzf"), "packed in a way that is not read"),
    "text": (text, "not numbers"),
    "objects": (replaced(dtype=h5py.string_dtype()), "not numbers"),
    "compound": (replaced(dtype=np.dtype([("a", "<f4")])), "not numbers"),
    "nan": (numbers(np.nan), "NaN or infinite"),
    "infinite": (numbers(-np.inf), "NaN or infinite"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_plain_finite_number_is_refused(folder: Path, tmp_path: Path, what: str) -> None:
    damage, match = BAD[what]
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    with h5py.File(folder / WEIGHTS, "r+") as file:
        damage(file, dataset_of(file), secret)
    with pytest.raises(MobileClipError, match=match) as error:
        MobileClipModel.from_pretrained(folder)
    assert str(folder) in str(error.value)


def test_groups_in_a_circle_end(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / WEIGHTS, "r+") as file:
        in_a_circle(file, dataset_of(file), tmp_path)
    try:
        MobileClipModel.from_pretrained(folder)
    except MobileClipError as error:
        assert "holds itself" in str(error)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}])
def test_packed_numbers_are_read(folder: Path, options: dict[str, Any]) -> None:
    plain = MobileClipModel.from_pretrained(folder)
    with h5py.File(folder / WEIGHTS, "r+") as file:
        name = dataset_of(file)
        array = file[name][...]
        del file[name]
        file.create_dataset(name, data=array, chunks=tuple(-(-n // 2) for n in array.shape), **options)
    for mine, theirs in zip(MobileClipModel.from_pretrained(folder).weights, plain.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs))


def test_numbers_too_large_for_the_dtype_asked_for(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "own", tmp_path / "folder"))
    with h5py.File(folder / WEIGHTS, "r+") as file:
        numbers(1e6)(file, dataset_of(file), tmp_path)
    assert MobileClipModel.from_pretrained(folder)
    with pytest.raises(MobileClipError, match="too large for float16"):
        MobileClipModel.from_pretrained(folder, dtype="float16")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "preprocessor_config.json", "tokenizer.json"])
def test_pipes_and_links_out_of_the_folder_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    import mobileclip_keras as mk

    model = small_model("small_vit", "small_transformer", form="inference", variant="mobileclip_s0")
    folder = tmp_path / "folder"
    model.save_pretrained(folder)
    part: Any = {"p": mk.ImagePreprocessor, "t": mk.Tokenizer}.get(name[0], MobileClipModel)
    (folder / name).rename(tmp_path / "outside")
    os.mkfifo(folder / name)
    with pytest.raises(MobileClipError, match="is not a regular file"):
        part.from_pretrained(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../outside")
    with pytest.raises(MobileClipError, match="outside the folder"):
        part.from_pretrained(folder)
    (folder / name).unlink()
    (folder / "inside").write_bytes((tmp_path / "outside").read_bytes())
    (folder / name).symlink_to("inside")
    assert part.from_pretrained(folder), "a link within the folder is nobody's business"
    (tmp_path / "by_a_link").symlink_to(folder)
    assert part.from_pretrained(tmp_path / "by_a_link"), "the user named the link himself"


def test_a_train_form_that_lies_elsewhere_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "own", tmp_path / "folder"))
    small_model("small_vit", "small_transformer").save_pretrained(tmp_path / "elsewhere")
    (folder / "train").symlink_to("../elsewhere")
    with pytest.raises(MobileClipError, match="outside the folder"):
        MobileClipModel.from_pretrained(folder, form="train")


def test_the_cache_of_the_hub_may_link_to_its_own_blobs_alone(saved: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--user--model"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", WEIGHTS):
        shutil.copy(saved / "own" / name, blobs / name.upper())
        (snapshot / name).symlink_to(f"../../blobs/{name.upper()}")
    assert MobileClipModel.from_pretrained(snapshot)
    (blobs / WEIGHTS.upper()).rename(tmp_path / "outside")
    (blobs / WEIGHTS.upper()).symlink_to(tmp_path / "outside")
    with pytest.raises(MobileClipError, match="outside the folder"):
        MobileClipModel.from_pretrained(snapshot)
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")
    with pytest.raises(MobileClipError, match="outside the folder"):
        MobileClipModel.from_pretrained(snapshot)


def test_the_reader_itself_refuses_too(saved: Path, tmp_path: Path) -> None:
    """Not only by way of from_pretrained."""
    model = MobileClipModel.from_pretrained(saved / "own")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(MobileClipError, match="is not a regular file"):
        weights_file.load_weights(model, tmp_path / "pipe.h5")


def test_a_backbone_that_is_larger_than_its_weights(saved: Path, tmp_path: Path) -> None:
    """Nothing is allocated for it: 200 GB would end the process."""
    folder = Path(shutil.copytree(saved / "other", tmp_path / "folder"))
    path = folder / "config.json"
    text = path.read_text()
    assert '"filters": 4' in text
    path.write_text(text.replace('"filters": 4', '"filters": 2000000000'))
    with pytest.raises(MobileClipError, match=r"it describes weights of \d+,\d+,\d+,\d+ bytes"):
        MobileClipModel.from_pretrained(folder)
    path.write_text(text.replace('"class_name": "Conv2D"', '"class_name": "Lambda"'))
    with pytest.raises(MobileClipError, match="cannot be loaded, it may be damaged"):
        MobileClipModel.from_pretrained(folder)
