"""`from_pretrained` of folders and of Hub repositories, and the folders that `save_pretrained` writes."""

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from huggingface_hub import constants

import mobileclip_keras as mk
from mobileclip_keras.converters.hub.upload import upload_folder
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.registry import UnknownVariantError
from mobileclip_keras.keras_models.store import weights_file
from mobileclip_keras.keras_models.store.folder import form_folders
from tests.converted import write_converted
from tests.hub import Hub
from tests.small import small_model

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]

REPO = "user/mobileclip2-s0-keras"
IMAGES = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
TOKENS = mk.Tokenizer()(["a dog", "a photo of two cats"])


@pytest.fixture(scope="module")
def model(small_towers: None) -> mk.MobileClipModel:
    """In train form, with running statistics that are not those of a new model; nobody may change it."""
    return small_model(variant="mobileclip_s0")


@pytest.fixture(scope="module")
def inference(model: mk.MobileClipModel) -> mk.MobileClipModel:
    return model.reparameterize()


@pytest.fixture(scope="module")
def converted(model: mk.MobileClipModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(model, tmp_path_factory.mktemp("made") / "converted")


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "converted"))


@pytest.fixture
def uploaded(hub: Hub, folder: Path) -> Hub:
    upload_folder(folder, REPO, tag="v1")
    shutil.rmtree(folder)
    return hub


def values(model: mk.MobileClipModel) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in model.weights]


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which files lie in a folder, and when each was last written."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(values(one), values(other), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert isinstance(error.value, MobileClipError) and "Traceback" not in text
    return text


# Folders


def test_a_folder_gives_both_forms_bit_for_bit(
    model: mk.MobileClipModel, inference: mk.MobileClipModel, folder: Path
) -> None:
    default = mk.MobileClipModel.from_pretrained(folder)
    assert default.form == "inference"
    assert same_weights(default, keras.saving.load_model(folder))
    assert same_weights(default, inference)
    train = mk.MobileClipModel.from_pretrained(str(folder), form="train")
    assert train.form == "train" and same_weights(train, model)
    np.testing.assert_array_equal(
        train.encode_image(IMAGES), model.encode_image(IMAGES), "running statistics are weights, too"
    )


def test_a_folder_of_one_form_folds_what_is_asked_for(inference: mk.MobileClipModel, folder: Path) -> None:
    folded = mk.MobileClipModel.from_pretrained(folder / "train", form="inference")
    assert folded.form == "inference" and same_weights(folded, inference)
    shutil.rmtree(folder / "train")
    with pytest.raises(MobileClipError, match="holds the form 'inference', not 'train'"):
        mk.MobileClipModel.from_pretrained(folder, form="train")


@pytest.mark.parametrize("form", ["inference", "train"])
def test_keras_own_way_of_loading_is_not_needed(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(keras.Model, "load_weights", None)
        fast = mk.MobileClipModel.from_pretrained(folder, form=form)
    slow = form_folders(folder)[form]
    assert same_weights(fast, keras.saving.load_model(slow))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_of_one_tower_nothing_else_is_read(folder: Path, tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mk.MobileClipModel.from_pretrained(folder)
    read = []
    original = weights_file._read
    monkeypatch.setattr(weights_file, "_read", lambda data: read.append(data) or original(data))
    half = mk.MobileClipModel.from_pretrained(folder, towers=tower)
    one, other = ("image", "text") if tower == "image" else ("text", "image")
    assert getattr(half, f"{other}_encoder") is None
    assert same_weights(getattr(half, f"{one}_encoder"), getattr(whole, f"{one}_encoder"))
    assert float(half.logit_scale.value) == float(whole.logit_scale.value)
    assert len(read) == len(half.weights)
    alone = {"image": mk.MobileClipImageEncoder, "text": mk.MobileClipTextEncoder}[tower].from_pretrained(folder)
    assert isinstance(alone, type(getattr(whole, f"{one}_encoder")))
    assert same_weights(alone, getattr(whole, f"{one}_encoder"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "mixed_float16"])
def test_a_folder_in_another_dtype(folder: Path, dtype: str, tmp_path: Path) -> None:
    model = mk.MobileClipModel.from_pretrained(folder, dtype=dtype)
    policy = keras.dtype_policies.get(dtype)
    assert model.image_encoder.compute_dtype == model.text_encoder.compute_dtype == policy.compute_dtype
    assert {variable.dtype for variable in model.image_encoder.trainable_variables} == {policy.variable_dtype}
    model.save_pretrained(tmp_path / "saved")
    again = mk.MobileClipModel.from_pretrained(tmp_path / "saved")
    assert again.dtype_policy == model.dtype_policy and same_weights(again, model)


def test_towers_of_other_names_and_makes_are_loaded_too(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="only")(inputs))
    tower = mk.MobileClipImageEncoder(backbone, 8, image_size=32, name="another")
    model = mk.MobileClipModel(image_encoder=tower)
    model.save_pretrained(tmp_path / "saved")
    assert same_weights(mk.MobileClipModel.from_pretrained(tmp_path / "saved"), model)
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists(), "nobody knows how its images are made"


@pytest.mark.parametrize("damage", ["cut", "shape", "missing", "no weights", "no config"])
def test_a_damaged_folder_is_named(folder: Path, damage: str) -> None:
    weights = folder / "model.weights.h5"
    match damage:
        case "cut":
            os.truncate(weights, weights.stat().st_size // 2)
        case "shape" | "missing":
            with h5py.File(weights, "a") as file:
                layer = file["image_encoder/layers/image_projection_head/vars"]
                del layer["0"]
                if damage == "shape":
                    layer["0"] = np.zeros((3, 3), np.float32)
        case "no weights":
            weights.unlink()
        case "no config":
            shutil.rmtree(folder / "train")
            (folder / "config.json").unlink()
    with pytest.raises(MobileClipError) as error:
        mk.MobileClipModel.from_pretrained(folder)
    assert str(folder) in message(error)


# Saving


def test_a_fine_tuned_model_is_saved_and_loaded(model: mk.MobileClipModel, tmp_path: Path) -> None:
    model = copy_model(model)
    model.compile("adam", loss=lambda *_: 0.0)
    model.text_encoder.trainable = False
    target = tmp_path / "new" / "saved"
    model.save_pretrained(target)
    assert {path.name for path in target.iterdir()} == {
        "config.json",
        "files.json",
        "metadata.json",
        "model.weights.h5",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in target.parent.iterdir()] == ["saved"]
    again = mk.MobileClipModel.from_pretrained(target)
    plain = keras.saving.load_model(target)
    for loaded in (again, plain):
        assert loaded.form == "train" and not loaded.compiled and not loaded.text_encoder.trainable
        for mine, theirs in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    preprocess = mk.ImagePreprocessor.from_pretrained(target)
    assert preprocess.image_size == 64 and preprocess(np.zeros((80, 90, 3), np.uint8)).shape == (1, 64, 64, 3)
    assert (mk.Tokenizer.from_pretrained(target)("a dog") == TOKENS[:1]).all()
    own = mk.ImagePreprocessor(32, std=(0.5, 0.5, 0.5), interpolation="bicubic")
    model.save_pretrained(target, overwrite=True, preprocessor=own)
    assert repr(mk.ImagePreprocessor.from_pretrained(target)) == repr(own)


def test_saving_replaces_only_models_and_only_when_told(
    model: mk.MobileClipModel, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "model.weights.h5").read_bytes()
    with pytest.raises(MobileClipError, match=r"exists already.*overwrite=True"):
        model.save_pretrained(folder)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "dog.jpg").write_bytes(b"")
    with pytest.raises(MobileClipError, match="something other than a model, and is left alone"):
        model.save_pretrained(photos, overwrite=True)
    assert [path.name for path in photos.iterdir()] == ["dog.jpg"]
    assert (folder / "model.weights.h5").read_bytes() == before
    model.save_pretrained(folder, overwrite=True)
    assert mk.MobileClipModel.from_pretrained(folder).form == "train"


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_while_saving_changes_nothing(
    model: mk.MobileClipModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    target = folder if there else tmp_path / "saved"
    before = stamps(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mk.Tokenizer, "save_pretrained", full)
    with pytest.raises(MobileClipError) as error:
        model.save_pretrained(target, overwrite=True)
    assert f"{target} could not be written: No space left on device" in message(error)
    assert stamps(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"converted"}


# Names


@pytest.mark.parametrize("load", [mk.MobileClipModel, mk.ImagePreprocessor, mk.Tokenizer, mk.MobileClipTextEncoder])
def test_names_that_mean_nothing(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownVariantError) as error:
        load.from_pretrained("s22")
    assert "There is no folder 's22'" in message(error)
    assert "nearest first: s2 (mobileclip_s2), 2-s2 (mobileclip2_s2)" in message(error)
    checkpoint = tmp_path / "mobileclip_s2.pt"
    checkpoint.write_bytes(b"")
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MobileClipError, match=r"no s2-keras in the folder models\. On the Hub it is hf://models/s2-keras"
    ):
        mk.MobileClipModel.from_pretrained("models/s2-keras")
    with pytest.raises(MobileClipError, match=r"is a file, .*convert --src"):
        load.from_pretrained(checkpoint)
    for name in (tmp_path, "s2"):
        with pytest.raises(ValueError, match="so it has no revision 'v1'"):
            load.from_pretrained(name, revision="v1")


@pytest.mark.parametrize(
    "name", ["2-s3", "apple/MobileCLIP2-S3", "timm/MobileCLIP2-S3-OpenCLIP", "hf://apple/MobileCLIP2-S3"]
)
def test_a_variant_has_preprocessing_and_tokenizer_without_any_download(hub: Hub, name: str) -> None:
    assert repr(mk.ImagePreprocessor.from_pretrained(name)) == repr(mk.ImagePreprocessor.from_variant("2-s3"))
    assert (mk.Tokenizer.from_pretrained(name)("a dog") == TOKENS[:1]).all()
    assert hub.requests == []


# The Hub


@pytest.mark.parametrize("name", [REPO, f"hf://{REPO}"])
def test_a_repository_is_loaded_by_the_files_it_takes(
    uploaded: Hub, model: mk.MobileClipModel, inference: mk.MobileClipModel, name: str
) -> None:
    asked = len(uploaded.requests)
    loaded = mk.MobileClipModel.from_pretrained(name)
    assert same_weights(loaded, inference)
    paths = [seen.path for seen in uploaded.requests[asked:]]
    assert any(path.endswith("/config.json") for path in paths)
    assert not any("train" in path or "tokenizer" in path or "README" in path for path in paths)
    assert uploaded.count("GET", "/lfs/") == 1
    assert repr(mk.ImagePreprocessor.from_pretrained(name)) == repr(mk.ImagePreprocessor(64, (0.5, 0.25, 0.125)))
    assert (mk.Tokenizer.from_pretrained(name)("a dog") == TOKENS[:1]).all()
    train = mk.MobileClipModel.from_pretrained(name, form="train", towers="text")
    assert train.form == "train" and same_weights(train.text_encoder, model.text_encoder)
    assert uploaded.count("GET", "/lfs/") == 2
    # All that is in the cache needs no network, by either way of saying so.
    asked = len(uploaded.requests)
    assert same_weights(mk.MobileClipModel.from_pretrained(name, local_files_only=True), loaded)
    assert mk.MobileClipModel.from_pretrained(name, form="train", local_files_only=True).form == "train"
    assert mk.Tokenizer.from_pretrained(name, local_files_only=True).context_length == 77
    assert len(uploaded.requests) == asked


def test_offline_names_what_is_not_in_the_cache(uploaded: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mk.MobileClipModel.from_pretrained(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mk.MobileClipModel.from_pretrained(REPO).form == "inference"
    asked = len(uploaded.requests)
    for load in (mk.MobileClipModel, mk.Tokenizer):
        with pytest.raises(MobileClipError) as error:
            load.from_pretrained(REPO, cache_dir=tmp_path / "another")
        assert "not in the local cache" in message(error) and "HF_HUB_OFFLINE" in message(error)
    with pytest.raises(MobileClipError):
        mk.MobileClipModel.from_pretrained(REPO, form="train")
    assert len(uploaded.requests) == asked


def test_revisions_tokens_and_places(
    uploaded: Hub, inference: mk.MobileClipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = copy_model(inference)
    newer.logit_scale.assign(3.0)
    newer.save_pretrained(tmp_path / "newer")
    upload_folder(tmp_path / "newer", REPO)
    first = mk.MobileClipModel.from_pretrained(REPO, revision="v1", cache_dir=tmp_path / "here")
    assert float(first.logit_scale.value) == pytest.approx(math.log(80))
    assert any((tmp_path / "here").iterdir()) and not Path(constants.HF_HUB_CACHE).exists()
    assert float(mk.MobileClipModel.from_pretrained(REPO).logit_scale.value) == 3.0
    with pytest.raises(MobileClipError, match="there is no revision 'v9'"):
        mk.MobileClipModel.from_pretrained(REPO, revision="v9")
    uploaded.repositories[REPO].private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MobileClipError, match=r"no such repository, or it is private.* pass token="):
        mk.MobileClipModel.from_pretrained(REPO, cache_dir=tmp_path / "nobody")
    token = next(iter(uploaded.users))
    assert mk.MobileClipModel.from_pretrained(REPO, cache_dir=tmp_path / "me", token=token)
    with pytest.raises(MobileClipError, match="the token is not valid"):
        mk.ImagePreprocessor.from_pretrained(REPO, cache_dir=tmp_path / "x", token="nobody")


def test_a_repository_of_something_else(hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "clip"}')
    upload_folder(other, "user/clip")
    with pytest.raises(MobileClipError, match="does not describe a MobileClipModel"):
        mk.MobileClipModel.from_pretrained("user/clip")
    with pytest.raises(MobileClipError, match=r"Cannot get tokenizer\.json of user/clip: there"):
        mk.Tokenizer.from_pretrained("user/clip")
    with pytest.raises(MobileClipError, match="there is no such repository"):
        mk.MobileClipModel.from_pretrained("user/missing")


def test_a_form_that_a_repository_lacks(hub: Hub, inference: mk.MobileClipModel, folder: Path) -> None:
    upload_folder(folder / "train", "user/train")
    folded = mk.MobileClipModel.from_pretrained("user/train", form="inference")
    assert same_weights(folded, inference)
    shutil.rmtree(folder / "train")
    upload_folder(folder, "user/inference")
    with pytest.raises(MobileClipError, match="holds the form 'inference', not 'train'"):
        mk.MobileClipModel.from_pretrained("user/inference", form="train")


def test_a_download_cut_in_the_middle_leaves_nothing_half_made(uploaded: Hub) -> None:
    uploaded.fault("GET", "/lfs/", cut_after=10_000, times=math.inf)
    with pytest.raises(MobileClipError) as error:
        mk.MobileClipModel.from_pretrained(REPO)
    assert "broke off" in message(error)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.h5"))
    uploaded.faults.clear()
    uploaded.fault("GET", "/lfs/", cut_after=10_000)
    assert mk.MobileClipModel.from_pretrained(REPO).form == "inference", "cut once, it goes on by itself"
