"""One tower alone: found under any prefix, converted, loaded, verified, described and written back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobileclip_keras.converters.checkpoints.checkpoint import checkpoint_of, open_checkpoint
from mobileclip_keras.converters.checkpoints.identify import (
    CheckpointFormat,
    UnknownCheckpointError,
    identify,
    lone_formats,
)
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.conversion.to_torch import to_torch
from mobileclip_keras.converters.conversion.verifying import verify_folder
from mobileclip_keras.converters.hub.model_card import validate_card
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store.folder import FolderError
from tests.converter_support import arrays, assert_same_bits, left_in, place, read_all, write

MCT = CheckpointFormat(None, "mct", "apple", "train")
APPLE_IMAGE = CheckpointFormat("mci0", None, "apple", "train")
FORMATS = list(lone_formats())
OWN = {
    ("image", "apple"): "image_encoder.model.",
    ("image", "open_clip"): "visual.trunk.",
    ("text", "apple"): "text_encoder.",
    ("text", "open_clip"): "text.",
}


def opened(shapes: Any, **options: Any) -> Any:
    return checkpoint_of(Path("weights.pt"), (), [place(shapes)], options.get("weights"), options.get("ignore", False))


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda f: f"{f.image_tower or f.text_tower}-{f.layout}-{f.form}")
def test_each_tower_is_found_under_any_prefix(wanted: CheckpointFormat) -> None:
    own = OWN[wanted.towers, wanted.layout]
    for prefix in (own, "", "model.", f"clip.{own}", own.replace("model.", "")):
        checkpoint = opened({prefix + name.removeprefix(own): shape for name, shape in wanted.shapes.items()})
        found = identify(checkpoint.shapes)
        assert found.towers == wanted.towers and found.form == wanted.form
        assert (found.image_tower, found.text_tower) == (wanted.image_tower, wanted.text_tower)
        # timm's layout is that of an image tower without open_clip's prefix.
        bare = not prefix.endswith(own) and wanted.layout == "open_clip" and wanted.towers == "image"
        assert found.layout == ("timm" if bare else wanted.layout)


def test_half_a_model_is_no_tower_alone() -> None:
    both = CheckpointFormat("mci0", "mct", "apple", "train")
    cut = {n: s for n, s in both.shapes.items() if n != "text_encoder.projection_layer"}
    with pytest.raises(UnknownCheckpointError, match="missing from the checkpoint"):
        identify(opened(cut, ignore=True).shapes)
    without_scale = {n: s for n, s in both.shapes.items() if n != "logit_scale"}
    with pytest.raises(UnknownCheckpointError, match="missing from the checkpoint:\n  logit_scale"):
        identify(opened(without_scale).shapes)


def test_a_tower_with_a_logit_scale() -> None:
    found = identify(opened({**MCT.shapes, "logit_scale": ()}).shapes)
    assert found == CheckpointFormat(None, "mct", "apple", "train", lone_scale=True)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S0's text tower as it lies in the module of somebody who took it out."""
    bare = {name.removeprefix("text_encoder."): array for name, array in arrays(MCT).items()}
    return write(bare, tmp_path_factory.mktemp("files") / "words.safetensors")


@pytest.fixture(scope="module")
def text_folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(text_file, tmp_path_factory.mktemp("out") / "words", form="train", verify=False).folder


def test_a_text_tower_becomes_a_folder(text_folder: Path) -> None:
    record = json.loads((text_folder / "conversion.json").read_text())
    assert record["towers"] == "text" and record["variant"] == "mobileclip_s0"
    assert record["notes"] == ["the file holds the text tower alone: there is no image tower"]
    assert "tokenizer.json" in left_in(text_folder) and "preprocessor_config.json" not in left_in(text_folder)
    for towers in (None, "text"):
        model = MobileClipModel.from_pretrained(text_folder, towers=towers)
        assert model.image_encoder is None and model.text_encoder.tower == "mct"
    for towers in ("both", "image"):
        with pytest.raises(
            FolderError, match=r"holds no image tower, only the text tower\. Load that with towers='text'"
        ):
            MobileClipModel.from_pretrained(text_folder, towers=towers)


def test_its_card_speaks_of_it_alone(text_folder: Path) -> None:
    card = (text_folder / "README.md").read_text()
    assert validate_card(card)["pipeline_tag"] == "feature-extraction"
    for words in ("| Image tower", "| Images", "preprocess", "encode_image", "zero-shot-image", "image preprocessing"):
        assert words not in card, words
    for words in ("| Text tower", "encode_text", "Only the text tower is here", "numbers for a text |"):
        assert words in card, words


def test_it_comes_back(text_folder: Path, tmp_path: Path) -> None:
    to_torch(text_folder, "apple", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), arrays(MCT))


@pytest.mark.nightly
def test_an_image_tower_of_apples_comes_back_with_its_scale(tmp_path: Path) -> None:
    tensors = {**arrays(APPLE_IMAGE), "logit_scale": np.array(4.25, np.float32)}
    source = write(tensors, tmp_path / "mobileclip_s0.safetensors")
    done = convert(source, tmp_path / "out", form="train", verify=False)
    assert done.format.lone_scale and done.variant.name == "mobileclip_s0"
    to_torch(done.folder, "apple", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), tensors)
    card = (done.folder / "README.md").read_text()
    assert validate_card(card)["pipeline_tag"] == "image-feature-extraction" and "Tokenizer" not in card


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated, and what tracing cannot see
def test_a_program_of_a_text_tower_converts(tmp_path: Path, text_folder: Path) -> None:
    """What detectors take from MobileCLIP."""
    from mobileclip_keras.verify.torch_models.mct import MobileTextTower

    tower = MobileTextTower().eval()
    bare = {n.removeprefix("text_encoder."): torch.from_numpy(np.array(a)) for n, a in arrays(MCT).items()}
    tower.load_state_dict(bare)
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    torch.jit.save(torch.jit.trace(tower, tokens, check_trace=False), tmp_path / "mobileclip_s0.ts")
    checkpoint = open_checkpoint(tmp_path / "mobileclip_s0.ts")
    assert identify(checkpoint.shapes) == MCT
    for name, array in arrays(MCT).items():
        np.testing.assert_array_equal(checkpoint.read(name), array)


@pytest.mark.nightly
def test_a_text_tower_is_verified(text_file: Path, tmp_path: Path) -> None:
    done = convert(text_file, tmp_path / "out")
    verification = done.verification
    assert verification is not None and verification.passed
    assert verification.image_names == () and all(check.image is None for check in verification.exact)
    assert verify_folder(done.folder, text_file, progress_of_nothing()).passed
    assert "In place of logits, which need both towers" in (done.folder / "README.md").read_text()


def progress_of_nothing() -> Any:
    from mobileclip_keras.converters.conversion.progress import silent

    return silent
