"""Back to PyTorch: bit for bit what went in, in whichever layout, and only what the layout can hold."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, identify
from mobileclip_keras.converters.conversion import to_torch as export
from mobileclip_keras.converters.conversion.build import build_model
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.conversion.mapping import MappingError, load_into
from mobileclip_keras.converters.conversion.to_torch import ExportError, to_torch
from mobileclip_keras.keras_models.errors import MissingPackageError
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.keras_models.store.folder import FolderError
from mobileclip_keras.keras_models.store.writing.atomic import OutputError
from tests.converter_support import (
    S0,
    SMALL_CLIP,
    TIMM,
    arrays,
    as_torch,
    assert_same_bits,
    left_in,
    read_all,
    write,
)

SMALL_APPLE = CheckpointFormat("mci0", "transformer_512", "apple", "train")
BIAS = "visual.trunk.head.fc.bias"


def model_of(checkpoint_format: CheckpointFormat, variant: str, folder: Path, bias: bool) -> MobileClipModel:
    path = write(arrays(checkpoint_format), folder / f"{variant}.safetensors")
    model = build_model(get_variant(variant), checkpoint_format, bias)
    load_into(model, open_checkpoint(path), checkpoint_format.rows)
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> MobileClipModel:
    """MobileCLIP2-S0, with the projection bias that open_clip's training gave it."""
    return model_of(SMALL_CLIP, "2-s0", tmp_path_factory.mktemp("clip"), bias=True)


@pytest.fixture(scope="module")
def s0(tmp_path_factory: pytest.TempPathFactory) -> MobileClipModel:
    return model_of(S0, "s0", tmp_path_factory.mktemp("s0"), bias=False)


@pytest.fixture(scope="module")
def image_model(clip: MobileClipModel) -> MobileClipModel:
    return MobileClipModel(image_encoder=clip.image_encoder, variant=clip.variant)


@pytest.mark.parametrize(
    "suffix", [".pt", ".safetensors", *(pytest.param(suffix, marks=pytest.mark.nightly) for suffix in (".pth", ".bin"))]
)
def test_apples_layout_comes_back(s0: MobileClipModel, tmp_path: Path, suffix: str) -> None:
    steps = []
    assert to_torch(s0, "apple", tmp_path / f"s0{suffix}", progress=steps.append) == len(S0.shapes)
    assert_same_bits(read_all(tmp_path / f"s0{suffix}"), arrays(S0))
    assert sum(steps) == len(S0.rows)
    assert (tmp_path / f"s0{suffix}").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("suffix", [pytest.param(".pt", marks=pytest.mark.nightly), ".safetensors"])
def test_open_clips_layout_comes_back(clip: MobileClipModel, tmp_path: Path, suffix: str) -> None:
    to_torch(clip, "open_clip", tmp_path / f"s0{suffix}")
    assert_same_bits(read_all(tmp_path / f"s0{suffix}"), arrays(SMALL_CLIP))


def test_the_image_tower_in_timms_layout(clip: MobileClipModel, s0: MobileClipModel, tmp_path: Path) -> None:
    prefix = "visual.trunk."
    expected = {n.removeprefix(prefix): a for n, a in arrays(SMALL_CLIP).items() if n.startswith(prefix)}
    assert expected.keys() == TIMM.shapes.keys()
    to_torch(clip, "timm", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), expected)

    import timm

    to_torch(s0, "timm", tmp_path / "s0.pt")
    tensors = torch.load(tmp_path / "s0.pt", weights_only=True)
    timm.create_model("fastvit_mci0", num_classes=512).load_state_dict(tensors, strict=True)
    assert not tensors["head.fc.bias"].any()
    projection = arrays(S0)["image_encoder.model.head.proj"]
    np.testing.assert_array_equal(tensors["head.fc.weight"].numpy(), projection.T)


def test_open_clip_loads_it(clip: MobileClipModel, tmp_path: Path) -> None:
    import open_clip

    to_torch(clip, "open_clip", tmp_path / "a.pt")
    with torch.device("meta"):  # without drawing initial values
        model = open_clip.create_model("MobileCLIP2-S0", device="meta")
    model.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True), strict=True, assign=True)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in as_torch(arrays(SMALL_CLIP)).items())


def test_from_one_layout_to_the_other_and_back(clip: MobileClipModel, tmp_path: Path) -> None:
    """open_clip -> Keras -> Apple's -> Keras -> open_clip -> timm, each step in a file."""
    without_bias = {**arrays(SMALL_CLIP), BIAS: np.zeros(512, np.float32)}
    first = copy_model(clip)
    first.image_encoder.projection.bias.assign(np.zeros(512))
    to_torch(first, "apple", tmp_path / "2-s0.pt")
    checkpoint = open_checkpoint(tmp_path / "2-s0.pt")
    assert identify(checkpoint.shapes) == SMALL_APPLE and len(checkpoint.shapes) == len(SMALL_CLIP.shapes) - 1
    for bias in (False, True):
        second = build_model(get_variant("2-s0"), SMALL_APPLE, bias)
        load_into(second, checkpoint, SMALL_APPLE.rows)
        to_torch(second, "open_clip", tmp_path / f"{bias}.safetensors")
        assert_same_bits(read_all(tmp_path / f"{bias}.safetensors"), without_bias)


def test_a_bias_that_apples_layout_has_no_place_for(clip: MobileClipModel, tmp_path: Path) -> None:
    with pytest.raises(MappingError) as error:
        to_torch(clip, "apple", tmp_path / "a.pt")
    assert str(error.value) == (
        "The model does not fit the layout:\n"
        "1 tensor without a place:\n"
        "  image_encoder/projection/bias of shape (512,) is not zero, and this layout has no tensor for it"
    )
    assert left_in(tmp_path) == set()


def test_s0_has_no_place_in_open_clip(s0: MobileClipModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"The open_clip layout has no mct. Use apple or timm\."):
        to_torch(s0, "open_clip", tmp_path / "a.pt")


def test_what_was_changed_goes_back_changed(clip: MobileClipModel, tmp_path: Path) -> None:
    tuned = copy_model(clip)
    kernel = tuned.text_encoder.projection.kernel
    kernel.assign(keras.ops.convert_to_numpy(kernel) * 2)
    norm = next(v for v in tuned.weights if v.path.endswith("num_batches_tracked"))
    norm.assign(1234)
    to_torch(tuned, "open_clip", tmp_path / "a.safetensors")
    expected = {**arrays(SMALL_CLIP), "text.text_projection": arrays(SMALL_CLIP)["text.text_projection"] * 2}
    expected["visual.trunk.stem.0.conv_kxk.0.bn.num_batches_tracked"] = np.array(1234)
    actual = read_all(tmp_path / "a.safetensors")
    differing = {n for n, a in actual.items() if not np.array_equal(a, arrays(SMALL_CLIP)[n])}
    assert len(differing) == 2 and "text.text_projection" in differing
    np.testing.assert_array_equal(actual["text.text_projection"], expected["text.text_projection"])
    assert sorted(actual[n].item() for n in differing - {"text.text_projection"}) == [1234]


@pytest.mark.nightly
def test_a_keras_file_and_a_folder(image_model: MobileClipModel, tmp_path: Path) -> None:
    expected = {n.removeprefix("visual.trunk."): a for n, a in arrays(SMALL_CLIP).items() if "trunk" in n}
    image_model.save(tmp_path / "model.keras")
    to_torch(tmp_path / "model.keras", "timm", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), expected)
    convert(tmp_path / "a.safetensors", tmp_path / "both", variant="2-s0", verify=False)
    to_torch(tmp_path / "both", "timm", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    convert(tmp_path / "a.safetensors", tmp_path / "inference", variant="2-s0", form="inference", verify=False)
    with pytest.raises(FolderError, match=r"holds the form 'inference', not 'train'\. Convert again"):
        to_torch(tmp_path / "inference", "timm", tmp_path / "c.pt")
    with pytest.raises(ExportError, match=r"is in inference form: what was folded cannot be unfolded"):
        to_torch(image_model.reparameterize(), "timm", tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_models_that_no_layout_holds(clip: MobileClipModel, tmp_path: Path) -> None:
    backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)])
    other = MobileClipModel.from_variant("2-s0", image_backbone=backbone, towers="image", image_size=32)
    with pytest.raises(ExportError, match="is not one of MobileCLIP's, and no layout has a place for it"):
        to_torch(other, "timm", tmp_path / "a.pt")
    with pytest.raises(ExportError, match="has no image tower, which is all that the timm layout holds"):
        to_torch(MobileClipModel(text_encoder=clip.text_encoder), "timm", tmp_path / "a.pt")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(ExportError, match=r"does not describe a MobileClipModel: .*Sequential"):
        to_torch(tmp_path / "other.keras", "timm", tmp_path / "a.pt")
    (tmp_path / "bad.keras").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"bad.keras cannot be loaded"):
        to_torch(tmp_path / "bad.keras", "timm", tmp_path / "a.pt")
    with pytest.raises(FolderError, match="holds no converted model"):
        to_torch(tmp_path, "timm", tmp_path / "a.pt")
    with pytest.raises(ExportError, match=r"'keras' is no layout. The layouts are apple, open_clip, timm\."):
        to_torch(clip, "keras", tmp_path / "a.pt")
    assert left_in(tmp_path) == {"other.keras", "bad.keras"}


def test_files_that_cannot_be_written(
    image_model: MobileClipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: Any, match: Any, **options):
        with pytest.raises(OutputError, match=match):
            to_torch(image_model, "timm", tmp_path / name, **options)

    (tmp_path / "there.pt").write_text("mine")
    refused("a.h5", r"must end in .safetensors, .pt")
    refused("there.pt", "exists already. Choose another --out, or replace a file with --force")
    refused("there.pt/a.pt", "is not a folder")
    assert (tmp_path / "there.pt").read_text() == "mine"
    to_torch(image_model, "timm", tmp_path / "there.pt", force=True)
    assert (tmp_path / "there.pt").stat().st_size > 1e6

    with monkeypatch.context() as patch:
        patch.setattr(export.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(MissingPackageError, match=r"Writing new.pt needs PyTorch: pip install"):
            to_torch(image_model, "timm", tmp_path / "new.pt")

    for error, raised in (
        (OSError(28, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(*_, error: Any = error, **__):
            raise error

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(raised):
            to_torch(image_model, "timm", tmp_path / "new.pt")
    assert left_in(tmp_path) == {"there.pt"}


def test_a_disk_that_fills_up(image_model: MobileClipModel, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        for name in ("a.pt", "a.safetensors"):
            with pytest.raises(OutputError, match=rf"{name} could not be written: file too large\. Nothing"):
                to_torch(image_model, "timm", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(tmp_path) == set()
