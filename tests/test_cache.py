"""`from_pretrained("s2")`: published checkpoints, downloaded and converted once, whatever happens."""

import errno
import importlib.util
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import mobileclip_keras as mk
from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
from mobileclip_keras.converters.conversion import cache, convert
from mobileclip_keras.converters.conversion.cache import DamagedCopyError, best_source, cache_folder, converted_copy
from mobileclip_keras.converters.conversion.damage import find_damage
from mobileclip_keras.converters.hub.upload import upload_folder
from mobileclip_keras.keras_models.errors import MissingPackageError, MobileClipError
from mobileclip_keras.keras_models.registry import VARIANTS, get_variant
from mobileclip_keras.keras_models.store.download import download_file
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


# --- Damaged copies ---


def weights_of(copy: Path) -> Path:
    return copy / "model.weights.h5"


def truncate(copy: Path) -> None:
    os.truncate(weights_of(copy), weights_of(copy).stat().st_size // 2)


def empty_the_weights(copy: Path) -> None:
    weights_of(copy).write_bytes(b"")


def zero(copy: Path) -> None:
    weights_of(copy).write_bytes(bytes(weights_of(copy).stat().st_size))


def zero_one_page(copy: Path) -> None:
    """The file still opens, and so would load."""
    with weights_of(copy).open("r+b") as file:
        file.seek(-8192, os.SEEK_END)
        file.write(bytes(4096))


def remove_the_weights(copy: Path) -> None:
    weights_of(copy).unlink()


def damage_the_config(copy: Path) -> None:
    (copy / "config.json").write_text('{"class_name": "Mobile')


def remove_the_config(copy: Path) -> None:
    (copy / "config.json").unlink()


def remove_the_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()


def damage_the_record(copy: Path) -> None:
    (copy / "files.json").write_bytes(bytes(500))


def remove_the_files(copy: Path) -> None:
    for path in copy.iterdir():
        path.unlink()


def put_a_file(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.write_text("mine")


def put_a_link_to_nothing(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "model.weights.h5 has [0-9]+ bytes and should have"),
        (empty_the_weights, "model.weights.h5 has 0 bytes"),
        (zero, "model.weights.h5 does not hold what was written"),
        (zero_one_page, "model.weights.h5 does not hold what was written"),
        (remove_the_weights, "model.weights.h5 is missing"),
        (damage_the_config, "config.json has 22 bytes"),
        (remove_the_config, "config.json is missing"),
        (remove_the_tokenizer, "tokenizer.json is missing"),
        (damage_the_record, "files.json is damaged"),
        (put_a_file, "it is not a folder"),
        (put_a_link_to_nothing, "it is not a folder"),
    ],
)
def test_a_damaged_copy_is_made_again(
    hub: Hub,
    conversions: list[tuple[Path, str]],
    tmp_path: Path,
    damage: Callable[[Path], None],
    what: str,
) -> None:
    copy = converted_copy(get_variant("2-s0"))
    damage(copy)
    aside = f"{copy.name}.damaged"
    with pytest.warns(UserWarning, match=rf"{copy} is damaged: {what}.* made again\. Delete {copy.parent}/{aside}"):
        assert converted_copy(get_variant("2-s0")) == copy
    assert len(conversions) == 2 and find_damage(copy, thorough=True) == []
    assert set(visible(copy.parent)) == {copy.name, aside}, "somebody may have changed it on purpose"
    assert converted_copy(get_variant("2-s0"), thorough=True) == copy and len(conversions) == 2


def test_a_copy_is_damaged_twice(hub: Hub, conversions: list[tuple[Path, str]]) -> None:
    for _ in range(3):
        truncate(copy := converted_copy(get_variant("2-s0")))
        with pytest.warns(UserWarning, match="made again"):
            converted_copy(get_variant("2-s0"))
    assert set(visible(copy.parent)) == {
        copy.name,
        *(f"{copy.name}.damaged{end}" for end in ("", "-2", "-3")),
    }


def test_an_empty_folder_is_no_copy(hub: Hub, conversions: list[tuple[Path, str]]) -> None:
    copy = converted_copy(get_variant("2-s0"))
    remove_the_files(copy)
    converted_copy(get_variant("2-s0"))
    assert visible(copy.parent) == [copy.name] and find_damage(copy) == []


def test_damage_that_no_time_shows_is_found_when_loading_fails(hub: Hub, conversions: list[tuple[Path, str]]) -> None:
    """A disk that loses its content says nothing about it."""
    copy = converted_copy(get_variant("2-s0"))
    times = weights_of(copy).stat()
    zero(copy)
    os.utime(weights_of(copy), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_damage(copy) == []
    with pytest.warns(UserWarning, match="does not hold what was written"):
        assert mk.MobileClipModel.from_pretrained("2-s0").form == "inference"


def test_an_error_of_another_kind_does_not_make_a_copy_again(hub: Hub, conversions: list[tuple[Path, str]]) -> None:
    mk.MobileClipModel.from_pretrained("2-s0")
    with pytest.raises(MobileClipError, match="holds the form 'inference', not 'train'"):
        mk.MobileClipModel.from_pretrained("2-s0", form="train")
    assert len(conversions) == 1


def test_damage_that_cannot_be_mended_is_named_and_nothing_is_lost(
    hub: Hub, conversions: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = converted_copy(get_variant("2-s0"))
    truncate(copy)
    shutil.rmtree(constants.HF_HUB_CACHE)
    for _ in range(2):
        with pytest.raises(DamagedCopyError) as error:
            mk.MobileClipModel.from_pretrained("2-s0", local_files_only=True)
        assert "model.weights.h5 has" in str(error.value) and "not in the local cache" in str(error.value)
        assert str(error.value).endswith(f"Delete {copy}, and it is made when it is asked for.")
    assert visible(copy.parent) == [copy.name] and weights_of(copy).exists()


def test_a_damaged_download_is_downloaded_again(
    hub: Hub, conversions: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    download_file(REPO, FILE)
    (blob,) = {path.resolve() for path in Path(constants.HF_HUB_CACHE).rglob(FILE)}
    blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(DamagedCopyError, match=rf"{blob} is damaged, and was not downloaded again: .* Delete it\."):
        converted_copy(get_variant("2-s0"), local_files_only=True)
    converted_copy(get_variant("2-s0"))
    assert len(conversions) == 1 and hub.count("GET", "/lfs/") == 2


def test_a_copy_that_was_moved_or_annotated_is_whole(hub: Hub, conversions: list[tuple[Path, str]]) -> None:
    copy = converted_copy(get_variant("2-s0"))
    moved = Path(shutil.copytree(copy, copy.parent / "moved", copy_function=shutil.copyfile))
    assert find_damage(moved) == []
    (copy / "README.md").write_text("my notes")
    (copy / "mine").mkdir()
    converted_copy(get_variant("2-s0"))
    assert len(conversions) == 1


def test_a_copy_of_an_older_version(hub: Hub, conversions: list[tuple[Path, str]], tmp_path: Path) -> None:
    old = Path(shutil.copytree(Path(__file__).parent / "saved_by_0_1_0", tmp_path / "old"))
    assert find_damage(old, thorough=True) == []
    zero_one_page(old)
    assert find_damage(old) == ["model.weights.h5 does not hold what was written"]
    (old / "conversion.json").unlink()
    assert find_damage(old) == [] and find_damage(old, thorough=True) == ["nothing tells whether its files are whole"]
    (old / "config.json").write_text("{}")
    (old / "train" / "config.json").unlink()
    assert find_damage(old) == ["config.json is missing or damaged"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_one_of_two_processes_is_killed_in_the_middle_of_the_download(
    hub: Hub, conversions: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault("GET", "/lfs/", cut_after=100_000, times=math.inf)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import huggingface_hub

        def die(_: float) -> None:  # a client waits before it asks for the rest
            os.write(writer, b"x")
            select.select([], [], [], 0.5)
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            huggingface_hub.close_session()
            monkeypatch.setattr("time.sleep", die)
            converted_copy(get_variant("2-s0"))
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"x"
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")), "it was in the middle"
    hub.faults.clear()
    assert mk.MobileClipModel.from_pretrained("2-s0").form == "inference"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    copy = cache_folder() / "mobileclip2_s0-keras"
    assert len(conversions) == 1 and find_damage(copy, thorough=True) == [] and visible(copy.parent) == [copy.name]
    for end in (reader, writer):
        os.close(end)


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
