"""Downloading and uploading that fail, against a Hub on loopback: what a person reads, and what is left."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mobileclip_keras.converters.hub.upload import upload_folder
from mobileclip_keras.keras_models.store.download import download_file, download_snapshot
from mobileclip_keras.keras_models.store.hub_errors import HubError

from .hub import Hub
from .hub_support import FILES, REPO, ROOT, WEIGHTS, files_below, message, run, write_folder

# The client's own: it hands its upload's file to its HTTP library in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "converted")


@pytest.mark.parametrize(
    ("repo_id", "options", "expected"),
    [
        ("user/missing", {}, "there is no such repository, or it is private"),
        (
            "user/secret",
            {"token": "stranger"},
            "if private, log in with `hf auth login`, set HF_TOKEN or pass",
        ),
        (REPO, {"token": "nobody"}, "the token is not valid (HTTP 401, Invalid credentials"),
        (REPO, {"revision": "v9"}, "there is no revision 'v9'"),
        ("user/gated", {"token": "stranger"}, "it is gated. Ask for access at http://127.0.0.1"),
        ("user/bad//name", {}, "Repo id must"),
        (REPO, {"local_files_only": True}, "not in the local cache"),
    ],
)
def test_downloads_that_cannot_be(hub: Hub, folder: Path, repo_id: Any, options: Any, expected: Any) -> None:
    upload_folder(folder, REPO)
    hub.create("user/secret", private=True)
    hub.create("user/gated").gated = True
    if options.get("token") == "stranger":
        options = {"token": hub.add_user("stranger")}
    for download in (
        lambda: download_file(repo_id, ".gitattributes", **options),
        lambda: download_snapshot(repo_id, **options),
    ):
        with pytest.raises(HubError) as error:
            download()
        assert expected in message(error) and message(error).startswith("Cannot get ")
        assert repo_id in message(error)


def test_a_file_that_is_not_there(hub: Hub, folder: Path) -> None:
    upload_folder(folder, REPO)
    with pytest.raises(HubError) as error:
        download_file(REPO, "missing.json")
    assert "Cannot get missing.json of user/model: there is no such file at revision 'main'" in message(error)


def test_uploads_that_cannot_be(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path = folder, repo_id: str = REPO, **options: str) -> str:
        with pytest.raises(HubError) as error:
            upload_folder(folder, repo_id, **options)
        return message(error)

    reader = hub.add_user("user", can_write=False)
    assert "does not allow it (HTTP 403, You don't have the rights" in refused(repo_id="someone/model")
    assert "does not allow it" in refused(token=reader)
    assert "the token is not valid" in refused(token="nobody")
    assert "name the repository as user/name" in refused(repo_id="model")
    assert "is not a folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no files" in refused(tmp_path / "empty")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token with write access. To give one, log in with `hf auth login`" in refused()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused()
    assert hub.repositories == {}


def test_a_reader_cannot_upload_to_what_exists(hub: Hub, folder: Path) -> None:
    commit = upload_folder(folder, REPO).commit
    (folder / "model.weights.h5").write_bytes(b"other")
    with pytest.raises(HubError, match="does not allow it"):
        upload_folder(folder, REPO, token=hub.add_user("colleague"))
    assert hub.repositories[REPO].branches["main"] == commit


def test_a_card_that_the_hub_refuses(hub: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: appel\n---\n")
    with pytest.raises(HubError) as error:
        upload_folder(folder, REPO)
    assert 'Invalid metadata in README.md. - "license" must be one of' in message(error)
    assert hub.count("PUT") == 0


def test_the_hub_cannot_be_reached(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_folder(folder, REPO)
    cached = download_file(REPO, "config.json")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    assert download_file(REPO, "config.json") == cached, "what is in the cache needs no network"
    for attempt in (
        lambda: download_file(REPO, "README.md"),
        lambda: download_snapshot("user/other"),
        lambda: upload_folder(folder, REPO),
    ):
        with pytest.raises(HubError) as error:
            attempt()
        assert "http://127.0.0.1:9 cannot be reached" in message(error)
        assert "Check the network, the proxy and HF_ENDPOINT." in message(error)


def test_an_endpoint_that_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.storage_endpoint)
    with pytest.raises(HubError, match=r"the Hub refused \(HTTP 404"):
        download_file(REPO, "config.json")


@pytest.mark.parametrize("status", [500, 503])
def test_the_hub_is_down(hub: Hub, folder: Path, status: int) -> None:
    upload_folder(folder, REPO)
    hub.fault("GET", "/api/models", status=status, message="maintenance", times=math.inf)
    hub.fault("HEAD", "/resolve/", status=status, message="maintenance", times=math.inf)
    for attempt in (lambda: download_snapshot(REPO), lambda: upload_folder(folder, REPO)):
        with pytest.raises(HubError) as error:
            attempt()
        assert f"the Hub is in trouble (HTTP {status}, maintenance)" in message(error)
    with pytest.raises(HubError, match=f"HTTP {status}"):
        download_file(REPO, "config.json")


def test_too_many_requests(hub: Hub) -> None:
    hub.fault("POST", "/api/repos/create", status=429, message="slow down")
    with pytest.raises(HubError, match=r"too many requests \(HTTP 429, slow down"):
        upload_folder(ROOT / "tests" / "hub", REPO)


# Cut connections and full disks


def test_a_connection_cut_once_is_no_trouble(hub: Hub, folder: Path) -> None:
    hub.fault("PUT", "/lfs/", cut_after=100_000)
    upload_folder(folder, REPO)
    hub.fault("GET", "/lfs/", cut_after=100_000)
    hub.fault("GET", "/resolve/", cut_after=1)
    snapshot = download_snapshot(REPO)
    assert all((snapshot / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_an_upload_that_is_always_cut(hub: Hub, folder: Path) -> None:
    hub.fault("PUT", "/lfs/", cut_after=100_000, times=math.inf)
    with pytest.raises(HubError) as error:
        upload_folder(folder, REPO)
    assert "Cannot upload to user/model: the connection to" in message(error)
    assert "broke off" in message(error) and "Run it again: complete files are kept." in message(error)
    assert set(hub.repositories[REPO].resolve("main").tree) == {".gitattributes"}
    hub.faults.clear()
    assert upload_folder(folder, REPO).files_uploaded == FILES


def test_a_commit_that_is_cut_is_made_by_the_next_run_without_sending_the_weights_again(hub: Hub, folder: Path) -> None:
    hub.fault("POST", "/commit/", cut_after=50)
    with pytest.raises(HubError, match="broke off"):
        upload_folder(folder, REPO)
    assert hub.count("PUT") == 1
    assert upload_folder(folder, REPO).files_uploaded == FILES
    assert hub.count("PUT") == 1


@pytest.mark.parametrize("get", [download_snapshot, lambda repo: download_file(repo, "model.weights.h5")])
def test_a_download_that_is_always_cut_leaves_no_half_file(hub: Hub, folder: Path, get: Any) -> None:
    upload_folder(folder, REPO)
    hub.fault("GET", "/lfs/", cut_after=100_000, times=math.inf)
    with pytest.raises(HubError) as error:
        get(REPO)
    assert "broke off" in message(error) and "Run it again" in message(error)
    cache = Path(constants.HF_HUB_CACHE)
    assert not [path for path in cache.rglob("*") if "incomplete" in path.name or "weights" in path.name]
    assert all(path.stat().st_size < 100_000 for path in files_below(cache))
    hub.faults.clear()
    assert get(REPO)
    assert download_file(REPO, "model.weights.h5", local_files_only=True).read_bytes() == WEIGHTS


def test_the_hub_has_no_room(hub: Hub, folder: Path) -> None:
    hub.blobs.quota = len(WEIGHTS) // 2
    with pytest.raises(HubError) as error:
        upload_folder(folder, REPO)
    assert "the Hub has no room for the files (HTTP 507, ENOSPC" in message(error)
    assert set(hub.repositories[REPO].resolve("main").tree) == {".gitattributes"}
    hub.blobs.quota = None
    assert upload_folder(folder, REPO).files_uploaded == FILES


def test_a_full_disk_here(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """The process may write no file above 100 kB: the nearest thing to a full disk that needs no root."""
    upload_folder(folder, REPO)
    script = """
        import resource, sys
        from pathlib import Path
        from mobileclip_keras.keras_models.store.download import download_file
        from mobileclip_keras.keras_models.store.hub_errors import HubError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            download_file("user/model", "model.weights.h5")
        except HubError as error:
            sys.exit(str(error))
    """
    done = run(script, environment=hub.environment(tmp_path / "fresh"))
    expected = f"Cannot get model.weights.h5 of user/model: no space left on the disk of {tmp_path / 'fresh'}"
    assert done.returncode == 1 and expected in done.stderr, done.stderr
    assert not [path for path in (tmp_path / "fresh").rglob("*") if "weights" in path.name]
    assert [path.name for path in files_below(tmp_path / "fresh" / "hub" / "models--user--model")] == ["main"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, "no space left on the disk of"), (errno.EACCES, "no permission to use")],
)
def test_the_cache_cannot_be_written(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, expected: Any
) -> None:
    upload_folder(folder, REPO)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(HubError) as error:
        download_file(REPO, "config.json", cache_dir=tmp_path / "cache")
    assert f"{expected} {tmp_path / 'cache'}" in message(error)
