"""`from_pretrained("s2")`: published checkpoints, downloaded and converted once, whatever happens."""

import errno
import importlib.util
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import mobileclip_keras as mk
from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
from mobileclip_keras.converters.conversion import cache, convert
from mobileclip_keras.converters.conversion.cache import best_source, cache_folder
from mobileclip_keras.converters.hub.upload import upload_folder
from mobileclip_keras.keras_models.errors import MissingPackageError, MobileClipError
from mobileclip_keras.keras_models.registry import VARIANTS, get_variant
from tests.hub import Hub, use_hub
from tests.small import small_model

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
REPO = "timm/MobileCLIP2-S0-OpenCLIP"
FILE = "open_clip_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that publishes something small in place of MobileCLIP2-S0, and caches below `tmp_path`."""
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "converted"))
    with Hub(tmp_path / "hub") as hub:
        use_hub(monkeypatch, hub, tmp_path / "home", hub.add_user("timm"))
        published = tmp_path / "published"
        published.mkdir()
        (published / FILE).write_bytes(bytes(range(256)) * 1000)
        upload_folder(published, REPO)
        yield hub


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """The calls of a conversion that writes a small model."""
    model = small_model(form="inference", variant="mobileclip_s0")
    calls: list[tuple[Path, str]] = []

    def convert_small(source: Path, out: Path, *, variant: str, verify: bool) -> None:
        assert not verify and source.read_bytes() == bytes(range(256)) * 1000
        calls.append((source, variant))
        model.save_pretrained(out)

    monkeypatch.setattr(convert, "convert", convert_small)
    return calls


def test_safetensors_are_taken_wherever_there_are_any() -> None:
    chosen = {variant.name: best_source(variant) for variant in VARIANTS.values()}
    assert {name for name, file in chosen.items() if not file.is_safetensors} == {
        "mobileclip_s0",
        "mobileclip_s3",
        "mobileclip_s4",
        "mobileclip_l14",
    }
    assert (chosen["mobileclip2_s0"].repo, chosen["mobileclip2_s0"].file) == (REPO, FILE)
    assert chosen["mobileclip_s2"].repo == "apple/MobileCLIP-S2-OpenCLIP"
    assert chosen["mobileclip_s0"].file == "mobileclip_s0.pt"
    assert all(file.layout != "timm" for file in chosen.values()), "that one lacks the text tower"


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MOBILECLIP_KERAS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mobileclip_keras"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mobileclip_keras"
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_a_variant_is_downloaded_and_converted_once(
    hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path
) -> None:
    for name in ("2-s0", "apple/MobileCLIP2-S0", REPO, f"hf://{REPO}", "mobileclip2_s0"):
        assert mk.MobileClipModel.from_pretrained(name).form == "inference"
    assert [variant for _, variant in conversions] == ["mobileclip2_s0"]
    assert hub.count("GET", "/lfs/") == 1
    assert (tmp_path / "converted" / "mobileclip2_s0-keras" / "config.json").is_file()
    asked = len(hub.requests)
    assert mk.MobileClipTextEncoder.from_pretrained("2-s0", local_files_only=True).tower == "small_mct"
    assert len(hub.requests) == asked


def test_a_place_of_ones_own(hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path) -> None:
    mk.MobileClipModel.from_pretrained("2-s0", cache_dir=tmp_path / "mine")
    names = {path.name for path in (tmp_path / "mine").iterdir() if not path.name.startswith(".")}
    assert names - {"CACHEDIR.TAG"} == {"mobileclip2_s0-keras", "models--timm--MobileCLIP2-S0-OpenCLIP"}
    assert not (tmp_path / "converted").exists() and not Path(constants.HF_HUB_CACHE).exists()


def test_offline(hub: Hub, conversions: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = len(hub.requests)
    with pytest.raises(MobileClipError, match="not in the local cache"):
        mk.MobileClipModel.from_pretrained("2-s0", local_files_only=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MobileClipError, match="HF_HUB_OFFLINE"):
        mk.MobileClipModel.from_pretrained("2-s0")
    assert conversions == [] and len(hub.requests) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    mk.MobileClipModel.from_pretrained("2-s0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mk.MobileClipModel.from_pretrained("2-s0").form == "inference"


def test_a_download_cut_in_the_middle_leaves_nothing_half_made(
    hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path
) -> None:
    hub.fault("GET", "/lfs/", cut_after=100_000, times=math.inf)
    with pytest.raises(MobileClipError, match="broke off"):
        mk.MobileClipModel.from_pretrained("2-s0")
    assert conversions == [] and visible(tmp_path / "converted") == []
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))
    hub.faults.clear()
    assert mk.MobileClipModel.from_pretrained("2-s0").form == "inference"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_conversion_that_breaks_off_leaves_nothing_half_made(
    hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise failure

        broken.setattr(mk.Tokenizer, "save_pretrained", fail)  # the last thing to be written
        with pytest.raises((MobileClipError, KeyboardInterrupt)):
            mk.MobileClipModel.from_pretrained("2-s0")
    assert visible(tmp_path / "converted") == []
    assert mk.MobileClipModel.from_pretrained("2-s0").form == "inference"
    assert len(conversions) == 2 and hub.count("GET", "/lfs/") == 1


def test_a_cache_that_cannot_be_written(
    hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(MobileClipError) as error:
        mk.MobileClipModel.from_pretrained("2-s0")
    assert "file cannot be written" in str(error.value)
    assert "Set MOBILECLIP_KERAS_HOME or cache_dir=" in str(error.value)


def test_a_pt_file_without_torch_is_said_plainly_before_it_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(cache, "find_spec", lambda name: None if name == "torch" else there(name))
    asked = len(hub.requests)
    with pytest.raises(MissingPackageError) as error:
        mk.MobileClipModel.from_pretrained("s0")
    assert str(error.value) == (
        "MobileCLIP-S0 is published as mobileclip_s0.pt alone, which PyTorch must read, once: "
        'pip install "mobileclip-keras[convert]". Or load a folder that was converted elsewhere.'
    )
    assert len(hub.requests) == asked


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


LOAD = """
    import sys
    class NotInstalled:
        def find_spec(self, name, path=None, target=None):
            if name in ("torch", "torchvision", "timm", "open_clip", "matplotlib"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, NotInstalled())
    import keras
    import numpy
    import mobileclip_keras as mk
    from mobileclip_keras.converters.conversion import convert
    original = convert.convert
    def counted(*arguments, **options):
        print("converting", flush=True)
        return original(*arguments, **options)
    convert.convert = counted
    model = mk.MobileClipModel.from_pretrained("2-s0", towers="image")
    images = mk.ImagePreprocessor.from_pretrained("2-s0")(numpy.full((8, 8, 3), 200, "uint8"))
    features = model.encode_image(images)
    print(sum(abs(keras.ops.convert_to_numpy(features).ravel())))
"""


@pytest.mark.nightly
def test_two_processes_without_torch_convert_a_real_checkpoint_once(tmp_path: Path) -> None:
    variant = get_variant("2-s0")
    published = tmp_path / "published"
    published.mkdir()
    synthetic_checkpoint("2-s0", published).rename(published / FILE)
    with Hub(tmp_path / "hub") as hub, pytest.MonkeyPatch.context() as monkeypatch:
        use_hub(monkeypatch, hub, tmp_path / "home", hub.add_user("timm"))
        upload_folder(published, best_source(variant).repo)
        (published / FILE).unlink()
        environment = {
            **{name: os.environ[name] for name in ("PATH", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES")},
            "PYTHONPATH": str(ROOT),
            "MOBILECLIP_KERAS_HOME": str(tmp_path / "converted"),
            **hub.environment(tmp_path / "fresh"),
        }
        command = [sys.executable, "-c", textwrap.dedent(LOAD)]
        pipe = subprocess.PIPE
        both = [subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
        said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    lines = sorted(line for output, _ in said for line in output.splitlines())
    assert len(lines) == 3 and lines[2] == "converting", "one process converted, the other waited for it"
    assert lines[0] == lines[1] and float(lines[0]) > 1
    assert hub.count("GET", "/lfs/") == 1
    copy = tmp_path / "converted" / "mobileclip2_s0-keras"
    assert (copy / "train" / "model.weights.h5").is_file(), "both forms are kept"
    assert visible(tmp_path / "converted") == [copy.name]
