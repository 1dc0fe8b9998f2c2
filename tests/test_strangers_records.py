"""Records, settings and features from strangers: types, ranges and sizes are checked before they are used."""

import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.formats.tensor_file import CheckpointError
from mobileclip_keras.converters.hub.records import RecordError, read_record, write_card, write_record
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.store.folder import read_config
from mobileclip_keras.keras_models.store.foreign.json_file import JsonError, Limits, read_json
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.keras_models.tasks import embedding_readers
from mobileclip_keras.keras_models.tasks.embedding_files import EmbeddingFileError, Embeddings

from .converted import pass_verification
from .small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")

HUGE = 10**30


# JSON

NOT_JSON = {
    "nothing": ("", "is not JSON"),
    "no UTF-8": (b"\xff\xfe{", "is not JSON"),
    "cut": ('{"a": [1, 2', "is not JSON"),
    "deep lists": ("[" * 100_000 + "]" * 100_000, "nested deeper than 24 levels"),
    "deep objects": ('{"a":' * 30 + "1" + "}" * 30, "nested deeper than 24 levels"),
    "many values": (json.dumps([0] * 60_000), "more than 50,000 values"),
    "many names": (json.dumps({str(i): 0 for i in range(30_000)}), "more than 50,000 values"),
    "long text": (json.dumps({"a": "b" * 30_000}), "a text of 30,000 characters"),
    "long name": (json.dumps({"a" * 30_000: 1}), "a text of 30,000 characters"),
    "large file": ("[" + " " * (3 << 20) + "]", "larger than 2,097,152 bytes"),
    "a name twice": ('{"a": 1, "b": {"c": 2, "c": 3}}', "says 'c' twice"),
    "not a number": ('{"a": NaN}', "NaN is no number"),
    "infinite": ('{"a": -Infinity}', "-Infinity is no number"),
    "too large": ('{"a": 1e400}', "1e400 is too large"),
    "long whole number": ('{"a": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_json_that_is_none_or_beyond_all_records(tmp_path: Path, what: str) -> None:
    content, match = NOT_JSON[what]
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MobileClipError, match=match) as error:
        read_json(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 500


def test_json_within_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [1, -2.5e3, true, null, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, -2500.0, True, None, "ü"]}
    with pytest.raises(JsonError, match="nested deeper than 1 levels"):
        read_json(path, Limits(depth=1))


# config.json


@pytest.fixture(scope="module")
def saved(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    small_model("small_vit", "small_transformer", form="inference").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edited(path: Path, *keys: str, to: Any) -> None:
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    path.write_text(json.dumps(content))


IMAGE = ("config", "image_encoder", "config")
CONFIGS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "image size": ((*IMAGE, "image_size"), 10**9, "image_size must be a whole number from 1 to 4096, not 1000000000"),
    "embed dim": ((*IMAGE, "embed_dim"), 10**17, "embed_dim must be a whole number from 1 to 16384"),
    "longer embed dim": ((*IMAGE, "embed_dim"), HUGE, "a whole number of 31 digits"),
    "negative": ((*IMAGE, "embed_dim"), -1, "embed_dim must be a whole number"),
    "no number": ((*IMAGE, "embed_dim"), "512", "embed_dim must be a whole number"),
    "true": ((*IMAGE, "embed_dim"), True, "embed_dim must be a whole number"),
    "padding": ((*IMAGE, "stem_padding"), 10**9, "stem_padding must be a whole number"),
    "epsilon": ((*IMAGE, "norm_epsilon"), -1e-5, "norm_epsilon must be a number from 0 to 1"),
    "form": ((*IMAGE, "form"), "other", "form must be 'train' or"),
    "name": ((*IMAGE, "name"), "a" * 5000, "name has 5,000 characters"),
    "backbone": ((*IMAGE, "backbone"), ["mci0"], "backbone must be a text"),
    "tower": (("config", "text_encoder"), [], "text_encoder must be an object, not a list"),
    "config": (("config",), None, "config must be an object"),
    "class": (("registered_name",), "keras>Dense", "registered_name must be"),
    "variant": (("config", "variant"), {}, "variant must be a text"),
    "dtype": (("config", "dtype"), {"class_name": "Lambda"}, "cannot be loaded"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_beyond_all_models(folder: Path, what: str) -> None:
    keys, value, match = CONFIGS[what]
    edited(folder / "config.json", *keys, to=value)
    tracemalloc.start()
    with pytest.raises(MobileClipError, match=match):
        load_folder(folder)
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()


def test_a_config_lists_all_that_is_wrong(folder: Path) -> None:
    edited(folder / "config.json", *IMAGE, "image_size", to=0)
    edited(folder / "config.json", *IMAGE, "embed_dim", to=0)
    with pytest.raises(MobileClipError, match=r"embed_dim must .*; config\.image_encoder\.config\.image_size must"):
        read_config(folder)


# conversion.json and verification.json

RECORDS: dict[str, tuple[str, Any, str]] = {
    "list": ("verification.json", [], "does not hold a record"),
    "text": ("conversion.json", "text", "does not hold a record"),
    "variant": ("conversion.json", {"variant": 3}, "variant must be a text, not 3"),
    "hashes": ("conversion.json", {"weights_sha256": {"train": "xy"}}, "must be a SHA-256 in hexadecimal"),
    "forms": ("conversion.json", {"weights_sha256": ["train"]}, "weights_sha256 must be an object, not a list of 1"),
    "file": ("conversion.json", {"source": {"file": "a" * 5000}}, "source.file has 5,000 characters"),
    "passed": ("verification.json", {"passed": "yes"}, "passed must be true or false, not 'yes'"),
    "checks": ("verification.json", {"float32": 5}, "float32 must be a list, not 5"),
    "check": ("verification.json", {"float64": [7]}, r"float64\[0\] must be an object, not 7"),
    "ratio": ("verification.json", {"float32": [{"rms_ratio": "1"}]}, r"float32\[0\]\.rms_ratio must be a number"),
    "top1": ("verification.json", {"float32": [{"top1_differences": 1.5}]}, "must be a whole number"),
    "device": ("verification.json", {"device": "cpu"}, "device must be an object"),
    "switches": ("verification.json", {"device": {"switches_verified": [1]}}, "switches_verified must be an object"),
    "inputs": ("verification.json", {"inputs": {"images": 7}}, "inputs.images must be a list"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_records_that_no_conversion_writes(tmp_path: Path, what: str) -> None:
    name, content, match = RECORDS[what]
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(RecordError, match=match):
        read_record(tmp_path, name)


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    write_record(tmp_path, "verification.json", {"float64": [{"image": float("nan"), "text": 1e-15}]})
    assert read_record(tmp_path, "verification.json")["float64"] == [{"image": None, "text": 1e-15}]


@pytest.mark.parametrize("missing", ["backend", "form", "rms_ratio", "top1_differences"])
def test_a_card_says_which_field_a_record_lacks(folder: Path, missing: str) -> None:
    write_record(folder, "conversion.json", CONVERSION)
    pass_verification(folder)
    record = json.loads((folder / "verification.json").read_text())
    (record if missing in record else record["float32"][0]).pop(missing)
    (folder / "verification.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match=f"does not say '{missing}'"):
        write_card(folder)


CONVERSION = {
    "variant": "mobileclip2_s0",
    "source": {"file": "a.pt", "sha256": "ab" * 32, "layout": "open_clip", "dtype": "float32"},
    "dtype": "float32",
    "weights_sha256": {"inference": "ab" * 32},
}


# The index and the header of safetensors files


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[" * 100_000, "nested deeper|not JSON"),
        (json.dumps({"weight_map": {"a": 7}}), "weight_map.a must be a text"),
        (json.dumps({"weight_map": ["a"]}), "weight_map must be an object"),
        (json.dumps({"weight_map": {"a" * 5000: "b"}}), "names of at most 1000 characters"),
        (json.dumps({"weight_map": {"a": "../b.safetensors"}}), "outside its folder"),
    ],
)
def test_an_index_of_something_else(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(path)


def test_a_header_that_is_far_too_long(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"a": "b" * (17 << 20)}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="a header of"):
        open_checkpoint(tmp_path / "a.safetensors")


# Features

GOOD = Embeddings("s0", ("a.jpg", "bü.jpg"), np.eye(2, 8, dtype=np.float32), ("a cat",), np.eye(1, 8, dtype=np.float32))


def npy(array: np.ndarray, header: dict[str, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    if header is None:
        np.lib.format.write_array(buffer, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(buffer, header)
        buffer.write(array.tobytes())
    return buffer.getvalue()


ARRAYS = {
    "model": np.array("s0"),
    "names": np.array(["a"] * 2),
    "features": np.eye(2, 8, dtype=np.float32),
    "texts": np.array([], dtype=np.str_),
    "text_features": np.zeros((0, 8), np.float32),
}


def header(shape: tuple[int, ...], descr: str = "<f4") -> dict[str, Any]:
    return {"descr": descr, "fortran_order": False, "shape": shape}


def packed(**arrays: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in ARRAYS.items():
            archive.writestr(f"{name}.npy", arrays.get(name, npy(array)))
    return buffer.getvalue()


ZEROS = np.zeros(1 << 28, np.uint8)  # takes no memory
BAD_NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "wide": (lambda: packed(features=npy(ZEROS[:0], header((2, 10**9)))), "do not fill"),
    "absurd shape": (lambda: packed(features=npy(ZEROS[:0], header((2, 10**30)))), "do not fill"),
    "negative": (lambda: packed(features=npy(ZEROS[:0], header((-2, 8)))), "do not fill|damaged"),
    "objects": (lambda: packed(names=npy(np.array(["a", None], object))), "are of type object"),
    "numbers as names": (lambda: packed(names=npy(np.arange(2))), "are of type int64"),
    "names as features": (lambda: packed(features=npy(np.full((2, 8), "a"))), "are of type <U1"),
    "long model": (lambda: packed(model=npy(np.array("a" * 5000))), "model is not a name"),
    "several models": (lambda: packed(model=npy(np.array(["a", "b"]))), "model is not a name"),
    "flat": (lambda: packed(features=npy(np.zeros(16, np.float32))), "features of shape"),
    "fewer names": (lambda: packed(names=npy(np.array(["a"]))), "it has 1 names"),
    "not a number": (lambda: packed(features=npy(np.full((2, 8), np.nan, np.float32))), "finite"),
    "no zip": (lambda: b"no zip", "not a zip file"),
    "empty zip": (lambda: b"PK\5\6" + bytes(18), "model.npy"),
}


@pytest.mark.parametrize("what", BAD_NPZ)
def test_arrays_that_are_no_features(tmp_path: Path, what: str) -> None:
    make, match = BAD_NPZ[what]
    path = tmp_path / "a.npz"
    path.write_bytes(make())
    with pytest.raises(EmbeddingFileError, match=match):
        Embeddings.load(path)


@pytest.mark.parametrize("kind", ["features", "names"])
def test_a_small_file_that_unpacks_to_much_is_not_unpacked(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_readers, "ROOM", 1 << 25)
    path = tmp_path / "a.npz"
    rows = 2_000_000
    made = {"features": (header((rows, 8)), 32), "names": (header((rows,), "<U1"), 4)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name != kind:
                    file.write(npy(array))
                    continue
                np.lib.format.write_array_header_1_0(file, made[name][0])
                file.write(bytes(rows * made[name][1]))
    monkeypatch.setattr(embedding_readers, "_check_pair", lambda *_: 8)
    tracemalloc.start()
    with pytest.raises(EmbeddingFileError, match="it says that it holds"):
        Embeddings.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_good_features_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    GOOD.save(tmp_path / f"a{suffix}")
    found = Embeddings.load(tmp_path / f"a{suffix}")
    assert (found.model, found.names, found.texts) == (GOOD.model, GOOD.names, GOOD.texts)
    np.testing.assert_array_equal(found.features, GOOD.features)
    np.testing.assert_array_equal(found.text_features, GOOD.text_features)


def parquet_of(path: Path, names: Any, features: Any, model: Any = None, **options: Any) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    columns = {"kind": arrow.array(["image"]).take(arrow.array([0] * len(names))), "name": names, "features": features}
    described = json.dumps({"model": "s0"} if model is None else model)
    table = arrow.table(columns).replace_schema_metadata({"mobileclip_keras": described})
    parquet.write_table(table, path, **options)


def test_rows_that_are_no_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_readers, "ROOM", 1 << 20)
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    rows = 10_000
    zeros = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(rows * 64, np.float32)), 64)
    names = arrow.array(["a"]).take(arrow.array(np.zeros(rows, np.int32)))
    parquet_of(path, names, zeros, compression="zstd")
    with pytest.raises(EmbeddingFileError, match="it says that it holds"):
        Embeddings.load(path)
    two = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(4, np.float32)), 2)
    for names, features, model, match in (
        (arrow.array(["a", None]), two, None, "not all of its names are texts"),
        (arrow.array([1, 2]), two, None, "column 'name' holds int64"),
        (arrow.array(["a", "b"]), arrow.array([[1.0], [2.0]]), None, "features are of type list"),
        (arrow.array(["a", "b"]), two, {"model": 7}, "model must be a text"),
        (arrow.array(["a", "b"]), two, [], "must be an object"),
    ):
        parquet_of(path, names, features, model)
        with pytest.raises(EmbeddingFileError, match=match):
            Embeddings.load(path)


def test_a_word_that_stands_in_many_rows_is_read_once(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    rows = 10_000
    features = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(rows, np.float32)), 1)
    parquet_of(tmp_path / "a.parquet", arrow.array(["a" * 10_000]).take(arrow.array([0] * rows)), features)
    tracemalloc.start()
    assert len(Embeddings.load(tmp_path / "a.parquet").names) == rows
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
