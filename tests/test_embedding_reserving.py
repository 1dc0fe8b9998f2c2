"""What `embed` refuses before it loads a model: loading takes long, and what is known by then is known."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import collection
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.tasks.embedding.errors import StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.fingerprint import package_version
from mobileclip_keras.keras_models.tasks.embedding.reserving import reserved
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import FINGERPRINT, WIDTH, StubEmbedder, pictures


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures in it. No model can be loaded."""
    pictures(tmp_path / "photos", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collection, "load_embedder", lambda *_, **__: pytest.fail("a model was loaded"))
    return tmp_path


def refused(*options: str) -> str:
    result = CliRunner().invoke(app, ["embed", "photos", "--out", "store", "--model", "s0", *options])
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def begin(version: str) -> None:
    shutil.rmtree("store", ignore_errors=True)
    with Store.for_writing("store", "s0", WIDTH, replace(FINGERPRINT, version=version)):
        pass


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("options", [(), pytest.param(("--ray", "local"), marks=pytest.mark.nightly)])
def test_a_store_that_another_process_writes_to(
    photos: Path, is_there: bool, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options:
        ray = pytest.importorskip("ray")
        monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a cluster was begun"))
    if is_there:
        begin(package_version())
    else:  # its first run is still loading the model
        Path("store").mkdir()
    before = sorted(Path("store").iterdir())
    with FileLock("store/.lock"):
        assert "Another process writes to" in refused(*options)
    assert sorted(Path("store").iterdir()) == (before if is_there else [Path("store/.lock")])


def test_a_store_of_another_version_or_dtype(photos: Path) -> None:
    begin("0.0.1")
    assert f"version of mobileclip-keras (0.0.1 there, {package_version()} here)" in refused()
    begin(package_version())
    assert "holds float32, not float16" in refused("--dtype", "float16")


def raising(error: BaseException) -> Callable[..., None]:
    def load(*_: object, **__: object) -> None:
        assert Path("store/.lock").exists(), "the store is kept meanwhile"
        raise error

    return load


@pytest.mark.parametrize("error", [MobileClipError("no such model"), KeyboardInterrupt()])
def test_a_model_that_is_not_loaded_leaves_nothing(
    error: BaseException, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "load_embedder", raising(error))
    result = CliRunner().invoke(app, ["embed", "photos", "--out", "store", "--model", "s0"])
    assert result.exit_code == (1 if isinstance(error, MobileClipError) else 130)
    assert not Path("store").exists()
    Path("store").mkdir()
    CliRunner().invoke(app, ["embed", "photos", "--out", "store", "--model", "s0"])
    assert Path("store").exists(), "a folder of the user's stays"


def test_who_has_a_store_may_ask_again_and_others_may_not(photos: Path) -> None:
    def ask() -> None:
        with reserved("store"):
            pass

    with reserved("store"), ThreadPoolExecutor(1) as pool:
        assert fill("store", ["photos"], StubEmbedder()).new == 2  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="Another process writes to"):
            pool.submit(ask).result()
    with FileLock("store/.lock", timeout=0):
        pass
