"""The loopback Hub answers the real client as the Hub does: every other Hub test stands on this."""

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import Hub, use_hub

# The client's own: it hands its upload's file to its HTTP library in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "user/model"
WEIGHTS = bytes(range(256)) * 2000
CARD = b"---\nlibrary_name: keras\nlicense: apple-amlr\n---\n# A model\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        use_hub(monkeypatch, hub, tmp_path / "home")
        yield hub


@pytest.fixture
def api(hub: Hub) -> Any:
    return HfApi(endpoint=hub.endpoint, token=hub.add_user("user"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A regular file at the top, one in a folder, the card, and one file that .gitattributes sends to LFS."""
    folder = tmp_path / "folder"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "config.json").write_bytes(b'{"variant": "s2"}')
    (folder / "tokenizer" / "vocab.json").write_bytes(b"{}")
    (folder / "model.weights.h5").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def published(api: HfApi, folder: Path) -> Path:
    """The folder, uploaded to REPO; the result is the commit."""
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="first").oid


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_creating_a_repository(hub: Hub, api: HfApi) -> None:
    assert api.create_repo(REPO).repo_id == REPO
    assert api.model_info(REPO).private is False
    assert api.create_repo(REPO, exist_ok=True).url == f"{hub.endpoint}/{REPO}"
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(REPO)
    assert status(error) == 409 and error.value.response.json()["url"] == f"{hub.endpoint}/{REPO}"
    api.create_repo("user/secret", private=True)
    assert api.model_info("user/secret").private is True
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("somebody-else/model")
    assert status(error) == 403
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.endpoint).create_repo("user/anonymous")
    assert status(error) == 401
    assert set(hub.repositories) == {REPO, "user/secret"}


def test_what_is_uploaded_comes_down_again(hub: Hub, api: HfApi, folder: Path, published: Path, tmp_path: Path) -> None:
    assert hub.count("PUT", "/lfs/") == 1, "only the .h5 file goes through LFS"
    files = {file.path: file for file in api.list_repo_tree(REPO, recursive=True) if hasattr(file, "lfs")}
    assert set(files) == {*contents(folder), ".gitattributes"}
    assert [path for path, file in files.items() if file.lfs] == ["model.weights.h5"]
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["first", "initial commit"]

    snapshot = snapshot_download(REPO, endpoint=hub.endpoint, token=api.token, cache_dir=tmp_path / "cache")
    assert Path(snapshot).name == published
    assert contents(Path(snapshot)).items() >= contents(folder).items()
    downloads = [seen for seen in hub.requests if seen.method == "GET" and seen.path.startswith("/lfs/")]
    assert downloads and not any(seen.authorization for seen in downloads), "storage saw the token"


def test_uploading_again_sends_nothing(hub: Hub, api: HfApi, folder: Path, published: Path) -> None:
    blobs = len(hub.blobs)
    again = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert again.oid == published and len(hub.blobs) == blobs
    assert hub.count("PUT") == 1 and hub.count("POST", "/commit/") == 1

    (folder / "config.json").write_bytes(b'{"variant": "s0"}')
    (folder / "copy.h5").write_bytes(WEIGHTS)
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid != published
    assert hub.count("PUT") == 1, "bytes that are stored under another name are not sent again"
    assert len(hub.blobs) == blobs + 1
    before, after = (hub.repositories[REPO].resolve(revision).tree for revision in (published, "main"))
    assert {path for path in after if after[path] != before.get(path)} == {"config.json", "copy.h5"}


def test_large_files_are_lfs_whatever_their_name(hub: Hub, api: HfApi) -> None:
    api.create_repo(REPO)
    api.upload_file(repo_id=REPO, path_in_repo="large.json", path_or_fileobj=b" " * (10 * 1024 * 1024 + 1))
    assert hub.repositories[REPO].resolve("main").tree["large.json"].lfs


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"---\nlicense: [apple-amlr\n---\n", "Invalid YAML"),
        (b"---\nlicense: appel-amlr\n---\n", "must be one of"),
        (b"---\ntags: clip\n---\n", '"tags" must be an array'),
        (b"---\n- a\n- b\n---\n", "must be a mapping"),
        (b"---\nlibrary_name: [keras]\n---\n", '"library_name" must be a string'),
    ],
)
def test_a_bad_card_stops_the_upload(hub: Hub, api: HfApi, folder: Path, card: Any, message: str) -> None:
    (folder / "README.md").write_bytes(card)
    api.create_repo(REPO)
    with pytest.raises(ValueError, match="Invalid metadata in README") as error:
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert message in str(error.value)
    assert hub.count("PUT") == hub.count("POST", "/commit/") == 0


def test_a_card_without_metadata_is_warned_about(api: HfApi, folder: Path) -> None:
    (folder / "README.md").write_bytes(b"# A model\n")
    api.create_repo(REPO)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_folder(repo_id=REPO, folder_path=folder)


def test_revisions(hub: Hub, api: HfApi, folder: Path, published: Path, tmp_path: Path) -> None:
    def config(revision: str | None) -> bytes:
        where = {"endpoint": hub.endpoint, "cache_dir": tmp_path}
        return Path(hf_hub_download(REPO, "config.json", revision=revision, **where)).read_bytes()

    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="next/try")
    api.upload_file(repo_id=REPO, path_in_repo="config.json", path_or_fileobj=b"2", revision="next/try")
    api.upload_file(repo_id=REPO, path_in_repo="config.json", path_or_fileobj=b"3")
    first = (folder / "config.json").read_bytes()
    assert config(None) == b"3" and config("next/try") == b"2"
    assert config("v1") == config(published) == config(published[:7]) == first

    references = api.list_repo_refs(REPO)
    assert {tag.name: tag.target_commit for tag in references.tags} == {"v1": published}
    assert {branch.name for branch in references.branches} == {"main", "next/try"}
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(REPO, tag="v1")
    assert status(error) == 409
    api.delete_tag(REPO, tag="v1")
    assert hub.repositories[REPO].tags == {}

    with pytest.raises(RevisionNotFoundError):
        config("v2")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(REPO, [], commit_message="nowhere", revision="v2")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "missing.json", endpoint=hub.endpoint, cache_dir=tmp_path)


def test_a_commit_on_a_stale_parent_is_refused(api: HfApi, published: Path) -> None:
    change = {"repo_id": REPO, "path_in_repo": "a.txt", "parent_commit": published}
    api.upload_file(path_or_fileobj=b"1", **change)
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=b"2", **change)
    assert status(error) == 412


def test_who_may_see_and_do_what(hub: Hub, api: HfApi, published: Path, tmp_path: Path) -> None:
    caches = (tmp_path / f"cache-{number}" for number in itertools.count())

    def download(token: str | bool) -> str:
        cache = next(caches)
        return hf_hub_download(REPO, "config.json", endpoint=hub.endpoint, token=token, cache_dir=cache)

    owner = api.token
    stranger = hub.add_user("stranger")
    reader = hub.add_user("user", can_write=False)
    member = hub.add_user("colleague", orgs=("user",))
    repository = hub.repositories[REPO]
    assert download(False) and download(stranger)
    with pytest.raises(HfHubHTTPError) as error:
        download("not-a-token")
    assert status(error) == 401

    for token in (stranger, reader):
        with pytest.raises(HfHubHTTPError) as error:
            api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"1", token=token)
        assert status(error) == 403
    assert api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"1", token=member)

    repository.gated = True
    for token, expected in ((False, 401), (stranger, 403)):
        with pytest.raises(GatedRepoError) as error:
            download(token)
        assert status(error) == expected
    repository.granted.add("stranger")
    assert download(stranger) and download(owner)

    repository.private = True
    for token, expected in ((False, 401), (stranger, 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            api.model_info(REPO, token=token)
        assert status(error) == expected
    assert api.model_info(REPO, token=reader).id == REPO
    assert api.whoami(token=stranger)["name"] == "stranger"


def test_an_upload_cut_in_the_middle_is_sent_again(hub: Hub, api: HfApi, folder: Path) -> None:
    hub.fault("PUT", "/lfs/", cut_after=100_000)
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.count("PUT", "/lfs/") == 2
    weights = hub.repositories[REPO].resolve("main").tree["model.weights.h5"]
    assert hub.blobs.path(weights.sha256).read_bytes() == WEIGHTS


def test_an_upload_that_never_gets_through_leaves_nothing(hub: Hub, api: HfApi, folder: Path) -> None:
    api.create_repo(REPO)
    blobs, head = len(hub.blobs), hub.repositories[REPO].branches["main"]
    hub.fault("PUT", "/lfs/", cut_after=100_000, times=math.inf)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert len(hub.blobs) == blobs and hub.repositories[REPO].branches["main"] == head
    hub.faults.clear()
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert "model.weights.h5" in hub.repositories[REPO].resolve("main").tree


def test_a_download_cut_in_the_middle_resumes(
    hub: Hub, api: HfApi, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole chunks are what the client keeps of a download that is cut.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.fault("GET", "/lfs/", cut_after=120_000)
    path = hf_hub_download(REPO, "model.weights.h5", endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == WEIGHTS
    ranges = [seen.range for seen in hub.requests if seen.method == "GET" and "/lfs/" in seen.path]
    assert ranges == [None, "bytes=100000-"]


def test_a_download_that_never_gets_through_leaves_no_file(
    hub: Hub, api: HfApi, published: Path, tmp_path: Path
) -> None:
    hub.fault("GET", "/lfs/", cut_after=120_000, times=math.inf)
    cache = tmp_path / "cache"
    with pytest.raises(Exception, match="peer closed connection"):
        snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=cache)
    assert not [path for path in cache.rglob("*") if "incomplete" in path.name or "weights" in path.name]
    hub.faults.clear()
    path = snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=cache)
    assert (Path(path) / "model.weights.h5").read_bytes() == WEIGHTS


def test_server_errors_pass_or_stay(hub: Hub, api: HfApi, folder: Path, published: Path) -> None:
    hub.fault("PUT", "/lfs/", status=503, times=2)
    (folder / "new.h5").write_bytes(os.urandom(1000))
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert "new.h5" in hub.repositories[REPO].resolve("main").tree
    hub.fault("GET", "/api/models", status=500, message="database is down")
    with pytest.raises(HfHubHTTPError, match="database is down"):
        api.model_info(REPO)
    assert api.model_info(REPO).id == REPO


def test_a_full_disk_on_the_server(hub: Hub, api: HfApi, folder: Path) -> None:
    api.create_repo(REPO)
    blobs = len(hub.blobs)
    hub.blobs.quota = len(WEIGHTS) // 2
    with pytest.raises(RuntimeError) as error:
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert status_of_cause(error.value) == 507
    assert len(hub.blobs) == blobs


def status_of_cause(error: BaseException) -> int:
    assert isinstance(error.__cause__, HfHubHTTPError)
    return error.__cause__.response.status_code


def test_storage_refuses_bytes_that_are_not_what_they_claim(hub: Hub, api: HfApi) -> None:
    import httpx2

    url = f"{hub.storage_endpoint}/lfs/{'0' * 64}"
    assert httpx2.put(url, content=b"something else", trust_env=False).status_code == 400
    assert len(hub.blobs) == 0


def test_a_fault_says_what_goes_wrong(hub: Hub) -> None:
    with pytest.raises(ValueError, match="either status= or cut_after="):
        hub.fault("GET", "/")
