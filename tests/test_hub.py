"""Downloading and uploading against a Hub on loopback: what arrives."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mobileclip_keras.converters.hub.upload import UploadResult, upload_folder
from mobileclip_keras.keras_models.store.download import download_file, download_snapshot
from mobileclip_keras.keras_models.store.hub_errors import HubError

from .hub import Hub
from .hub_support import FILES, REPO, WEIGHTS, files_below, message, run, write_folder

# The client's own: it hands its upload's file to its HTTP library in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "converted")


# Uploading


def test_what_is_uploaded_comes_down(hub: Hub, folder: Path) -> None:
    result = upload_folder(folder, REPO)
    head = hub.repositories[REPO].branches["main"]
    assert result == UploadResult(f"{hub.endpoint}/{REPO}", head, FILES, ())
    snapshot = download_snapshot(f"hf://{REPO}")
    for name in FILES:
        assert (snapshot / name).read_bytes() == (folder / name).read_bytes()
        assert download_file(REPO, name) == snapshot / name
    only_json = download_snapshot(REPO, allow_patterns=["*.json"], cache_dir=folder.parent / "another")
    assert {path.name for path in files_below(only_json)} == {"config.json", "vocab.json"}


def test_uploading_twice_sends_nothing_the_second_time(hub: Hub, folder: Path) -> None:
    first = upload_folder(folder, REPO, tag="v1")
    stored, seen = len(hub.blobs), len(hub.requests)
    again = upload_folder(folder, REPO, tag="v1")
    assert again == UploadResult(first.url, first.commit, (), FILES)
    assert len(hub.blobs) == stored and hub.repositories[REPO].branches["main"] == first.commit
    sent = {request.path for request in hub.requests[seen:] if request.method in ("POST", "PUT")}
    assert sent == {"/api/repos/create", f"/api/models/{REPO}/tag/{first.commit}"}


@pytest.mark.parametrize("changed", FILES)
def test_only_what_changed_is_sent(hub: Hub, folder: Path, changed: Any) -> None:
    upload_folder(folder, REPO)
    content = (folder / changed).read_bytes()
    (folder / changed).write_bytes(content[:-1] + b"!")  # of the same size
    stored, puts = len(hub.blobs), hub.count("PUT")
    result = upload_folder(folder, REPO)
    assert result.files_uploaded == (changed,)
    assert set(result.files_unchanged) == set(FILES) - {changed}
    assert len(hub.blobs) == stored + 1
    assert hub.count("PUT") - puts == (changed == "model.weights.h5")


def test_hidden_files_stay_here_and_other_peoples_stay_there(hub: Hub, folder: Path) -> None:
    upload_folder(folder, REPO)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    (folder / ".DS_Store").write_text("")
    (folder / "tokenizer" / "vocab.json").unlink()
    assert upload_folder(folder, REPO).files_uploaded == ()
    assert set(hub.repositories[REPO].resolve("main").tree) == {*FILES, ".gitattributes"}


def test_a_dry_run_writes_nothing(hub: Hub, folder: Path) -> None:
    assert upload_folder(folder, REPO, tag="v1", revision="next", dry_run=True) == UploadResult(
        f"{hub.endpoint}/{REPO}", None, FILES, (), would_create=True
    )
    assert hub.repositories == {} and {request.method for request in hub.requests} == {"GET"}
    commit = upload_folder(folder, REPO).commit
    assert upload_folder(folder, REPO, dry_run=True) == UploadResult(f"{hub.endpoint}/{REPO}", commit, (), FILES)
    (folder / "config.json").write_text("{}")
    result = upload_folder(folder, REPO, tag="v1", revision="next", dry_run=True)
    assert (result.commit, result.files_uploaded) == (None, ("config.json",))
    repository = hub.repositories[REPO]
    assert repository.branches == {"main": commit} and repository.tags == {}


def test_a_dry_run_needs_no_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    planned = upload_folder(folder, REPO, tag="v1", dry_run=True)
    assert planned == UploadResult(f"{hub.endpoint}/{REPO}", None, FILES, (), would_create=True)
    commit = upload_folder(folder, REPO, tag="v1", token=next(iter(hub.users))).commit
    seen = len(hub.requests)
    planned = upload_folder(folder, REPO, tag="v1", dry_run=True)
    assert planned == UploadResult(f"{hub.endpoint}/{REPO}", commit, (), FILES)
    assert {(request.method, request.authorization) for request in hub.requests[seen:]} == {("GET", None)}
    with pytest.raises(HubError, match="the token is not valid"):
        upload_folder(folder, REPO, dry_run=True, token="nobody")
    with pytest.raises(HubError, match="no token with write access"):
        upload_folder(folder, REPO)


def test_a_tag_marks_the_upload_and_never_moves(hub: Hub, folder: Path) -> None:
    commit = upload_folder(folder, REPO, tag="v1").commit
    tags = hub.repositories[REPO].tags
    assert tags == {"v1": commit}
    (folder / "config.json").write_text("{}")
    for dry_run in (True, False):
        with pytest.raises(HubError) as error:
            upload_folder(folder, REPO, tag="v1", dry_run=dry_run)
        assert "has a tag v1" in message(error) and "choose another tag" in message(error)
    assert hub.repositories[REPO].branches["main"] == commit, "refused before anything is sent"
    newer = upload_folder(folder, REPO, tag="v2").commit
    assert tags == {"v1": commit, "v2": newer}
    with pytest.raises(HubError, match="has a tag v1"):
        upload_folder(folder, REPO, tag="v1")
    assert download_file(REPO, "config.json", revision="v1").read_text() == '{"variant": "s2"}'
    assert download_file(REPO, "config.json", revision="v2").read_text() == "{}"


def test_uploading_to_a_branch(hub: Hub, folder: Path) -> None:
    main = upload_folder(folder, REPO).commit
    (folder / "config.json").write_text("{}")
    result = upload_folder(folder, REPO, revision="next")
    assert hub.repositories[REPO].branches == {"main": main, "next": result.commit}
    assert result.files_uploaded == ("config.json",), "a new branch starts at main"
    assert upload_folder(folder, REPO, revision="next").files_uploaded == ()


def test_private_means_private(hub: Hub, folder: Path) -> None:
    upload_folder(folder, REPO, private=True)
    assert hub.repositories[REPO].private
    assert upload_folder(folder, REPO, private=True).files_uploaded == ()
    upload_folder(folder, "user/public")
    (folder / "config.json").write_text("{}")
    with pytest.raises(HubError) as error:
        upload_folder(folder, "user/public", private=True)
    assert "user/public as private: it is public" in message(error)
    assert hub.repositories["user/public"].resolve("main").title == "Upload converted"
    assert len(hub.repositories["user/public"].commits) == 2, "refused before anything is sent"


def test_a_commit_made_meanwhile_is_not_overwritten(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_folder(folder, REPO)
    (folder / "config.json").write_text("{}")
    repository = hub.repositories[REPO]

    def compare(file: Path, stored: object) -> bool:
        repository.commit("main", "meanwhile", "colleague", {})
        return False

    monkeypatch.setattr("mobileclip_keras.converters.hub.upload._same", compare)
    with pytest.raises(HubError) as error:
        upload_folder(folder, REPO)
    assert "has changed meanwhile" in message(error)
    assert repository.resolve("main").title == "meanwhile"


# Offline, and what the environment says


def test_offline_uses_the_cache_alone(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_folder(folder, REPO)
    snapshot = download_snapshot(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = len(hub.requests)
    assert download_snapshot(REPO) == snapshot
    assert download_file(REPO, "config.json") == snapshot / "config.json"
    with pytest.raises(HubError) as error:
        download_file("user/other", "config.json")
    assert f"not in the local cache ({constants.HF_HUB_CACHE})" in message(error)
    assert "HF_HUB_OFFLINE or local_files_only=True forbids" in message(error)
    assert len(hub.requests) == seen


def test_the_environment_counts_at_each_call(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://elsewhere.invalid")
    template = "https://elsewhere.invalid/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert upload_folder(folder, REPO).url == f"{hub.endpoint}/{REPO}"
    assert (download_snapshot(REPO) / "config.json").is_file()
    assert download_file(REPO, "config.json", cache_dir=tmp_path / "another").is_file()


def test_a_fresh_process_needs_only_the_environment(hub: Hub, folder: Path, tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from mobileclip_keras.converters.hub.upload import upload_folder
        from mobileclip_keras.keras_models.store.download import download_snapshot
        assert "huggingface_hub" not in sys.modules, "imported before it is needed"
        result = upload_folder(Path(sys.argv[1]), "user/model", tag="v1")
        path = download_snapshot("user/model", revision="v1")
        print(result.commit, path)
    """
    token = next(iter(hub.users))
    done = run(script, str(folder), environment=hub.environment(tmp_path / "fresh", token))
    assert done.returncode == 0, done.stderr
    commit, path = done.stdout.split()
    assert commit == hub.repositories[REPO].branches["main"] == hub.repositories[REPO].tags["v1"]
    assert Path(path).is_relative_to(tmp_path / "fresh")
    assert (Path(path) / "model.weights.h5").read_bytes() == WEIGHTS
