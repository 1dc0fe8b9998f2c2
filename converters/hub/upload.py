"""Getting files from the Hugging Face Hub and putting a folder there, with errors that a person can act on.

A thin layer over `huggingface_hub`, which does the work: its cache, its retries, its resuming. `HF_ENDPOINT`
and `HF_HUB_OFFLINE` are read at each call, `HF_TOKEN` and a login by the client. Every failure of the client,
of its HTTP library and of the disk becomes a `HubError`.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...keras_models.errors import MobileClipError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo, RepoFile

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}  # the HTTP library's
LOG_IN = "log in with `hf auth login`, set HF_TOKEN or pass token="


class HubError(MobileClipError):
    """The Hub, the way to it or the disk failed; the message says what to do."""


class NoSuchFileError(HubError):
    """A repository does not hold a file, or the local cache does not, where only that may be used."""


@dataclass(frozen=True)
class UploadResult:
    """What an upload did, or would do."""

    url: str  # the repository's page
    commit: str | None  # the commit that holds the folder; None for a dry run that found something to upload
    files_uploaded: tuple[str, ...]  # paths in the repository
    files_unchanged: tuple[str, ...]  # those that the repository held already, bit for bit
    would_create: bool = False  # of a dry run: whether no repository of that name is there for this user to see


def download_file(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the path of one file of a repository, downloaded if the cache does not hold it.

    `revision` is a branch, tag or commit (default `main`); `cache_dir` defaults to the Hub client's own. An
    interrupted download leaves no file. Raises HubError.
    """
    from huggingface_hub import hf_hub_download

    with _plain_errors(f"get {filename} of {repo_id}", repo_id, revision, cache_dir):
        path = hf_hub_download(
            _bare(repo_id),
            filename,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only or _is_offline(),
            endpoint=_endpoint(),
        )
    return Path(path)


def download_snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | None = None,
) -> Path:
    """Returns a folder that holds the repository's files, or those that match `allow_patterns` (`*.json`).

    Otherwise as `download_file`.
    """
    from huggingface_hub import snapshot_download

    with _plain_errors(f"get {repo_id}", repo_id, revision, cache_dir):
        path = snapshot_download(
            _bare(repo_id),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only or _is_offline(),
            allow_patterns=allow_patterns,
            endpoint=_endpoint(),
        )
    return Path(path)


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    dry_run: bool = False,
) -> UploadResult:
    """Puts a folder's files into a model repository in one commit, without sending what is there already.

    The repository is made if need be, and so is the branch `revision` (default `main`). `tag` names the
    resulting commit; a tag that stands on another is not moved. Names that start with a dot are left out, and
    files that only the repository has are left alone. A dry run reads both sides and writes to neither, which
    takes no token where the repository is public. Raises HubError, also where `private` is asked for and the
    repository is a public one.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    files = _files(folder)
    repo_id = _bare(repo_id)
    branch = revision or "main"
    cannot = f"Cannot upload to {repo_id}"
    if repo_id.count("/") != 1:
        raise HubError(f"{cannot}: name the repository as user/name.")
    if _is_offline():
        raise HubError(f"{cannot}: HF_HUB_OFFLINE is set. Unset it to publish.")
    with _plain_errors(f"upload to {repo_id}", repo_id, revision):
        if not (dry_run or token or get_token()):
            raise HubError(f"{cannot}: no token with write access. To give one, {LOG_IN}.")
        api = HfApi(endpoint=_endpoint(), token=token)
        if not dry_run:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            if branch != "main":
                api.create_branch(repo_id, branch=branch, exist_ok=True)
        head = _head(api, repo_id, branch)
        if private and head is not None and not head.private:
            raise HubError(f"{cannot} as private: it is public. Change that there, or choose another name.")
        stored = _stored_files(api, repo_id, head)
        unchanged = tuple(path for path in files if path in stored and _same(files[path], stored[path]))
        changed = tuple(path for path in files if path not in unchanged)
        if tag and head is not None:
            _check_tag(api, repo_id, tag, None if changed else head.sha)
        commit = None if head is None or changed else head.sha
        if changed and not dry_run:
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(path, files[path]) for path in changed],
                commit_message=f"Upload {folder.resolve().name}",
                revision=branch,
                parent_commit=head.sha if head else None,
            ).oid
        if tag and not dry_run:
            api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True)
    return UploadResult(f"{api.endpoint}/{repo_id}", commit, changed, unchanged, dry_run and head is None)


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path in it, without hidden ones."""
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder: give the folder of converted weights to upload.")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    shown = sorted(name for name in files if not any(part.startswith(".") for part in name.split("/")))
    if not shown:
        raise HubError(f"{folder} holds no files: there is nothing to upload.")
    return {name: files[name] for name in shown}


def _head(api: "HfApi", repo_id: str, branch: str) -> "ModelInfo | None":
    """The commit that an upload starts from; None where there is no such repository yet."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.model_info(repo_id, revision=branch)
    except RevisionNotFoundError:  # a branch that is still to be made starts at main
        return api.model_info(repo_id, revision="main")
    except RepositoryNotFoundError:
        return None


def _stored_files(api: "HfApi", repo_id: str, head: "ModelInfo | None") -> dict[str, "RepoFile"]:
    from huggingface_hub.hf_api import RepoFile

    items = api.list_repo_tree(repo_id, recursive=True, revision=head.sha) if head else ()
    return {item.path: item for item in items if isinstance(item, RepoFile)}


def _same(file: Path, stored: "RepoFile") -> bool:
    """Whether the Hub's file has this file's content, by the hash that the Hub gives: git's, or LFS's."""
    size = file.stat().st_size
    if size != stored.size:
        return False
    digest = hashlib.sha256() if stored.lfs else hashlib.sha1(b"blob %d\0" % size)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == (stored.lfs.sha256 if stored.lfs else stored.blob_id)


def _check_tag(api: "HfApi", repo_id: str, tag: str, commit: str | None) -> None:
    """HubError if the tag stands on a commit other than this one; None is one that is still to be made."""
    tags = {reference.name: reference.target_commit for reference in api.list_repo_refs(repo_id).tags}
    if tag in tags and tags[tag] != commit:
        raise HubError(f"{repo_id} has a tag {tag}, on other content ({tags[tag][:7]}): choose another tag.")


def _bare(repo_id: str) -> str:
    return repo_id.removeprefix("hf://")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _is_offline() -> bool:
    from huggingface_hub import constants

    told_now = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return told_now or constants.HF_HUB_OFFLINE


@contextmanager
def _plain_errors(
    doing: str, repo_id: str, revision: str | None, cache_dir: str | Path | None = None
) -> Iterator[None]:
    """Turns what the client raises inside into a HubError."""
    from huggingface_hub import errors

    # The client's errors, among them the base class of its HTTP library's, have no base class in common.
    named = vars(errors).values()
    known: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    known += tuple(kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception))
    wrappers = (RuntimeError, errors.LocalEntryNotFoundError)  # say only that something failed
    try:
        yield
    except known as error:
        reason: BaseException = error
        while isinstance(reason, wrappers) and reason.__cause__ is not None:
            reason = reason.__cause__
        explained = _explain(reason, _bare(repo_id), revision or "main", cache_dir)
        missing = (errors.RemoteEntryNotFoundError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        kind = NoSuchFileError if isinstance(reason, missing) else HubError
        raise kind(f"Cannot {doing}: {explained}") from error


def _explain(error: BaseException, repo_id: str, revision: str, cache_dir: str | Path | None) -> str:
    """What is wrong and what to do, in a sentence each."""
    from huggingface_hub import constants, errors

    cache = cache_dir or constants.HF_HUB_CACHE
    endpoint = _endpoint() or constants.ENDPOINT
    files = f"{endpoint}/{repo_id}/tree/main"
    again = "Run it again: complete files are kept."
    match error:
        case errors.GatedRepoError():
            return f"it is gated. Ask for access at {endpoint}/{repo_id}, then {LOG_IN}."
        case errors.RepositoryNotFoundError():
            return f"there is no such repository, or it is private. Check its name; if private, {LOG_IN}."
        case errors.RevisionNotFoundError():
            return f"there is no revision {revision!r}. Its branches and tags are listed at {files}."
        case errors.RemoteEntryNotFoundError():
            return f"there is no such file at revision {revision!r}. Its files are listed at {files}."
        case errors.HfHubHTTPError():
            return _explain_http(error, endpoint)
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return (
                f"it is not in the local cache ({cache}), and HF_HUB_OFFLINE or local_files_only=True "
                "forbids to download it. Allow that once."
            )
        case OSError() if error.errno in NO_ROOM:
            return f"no space left on the disk of {error.filename or cache}. Make room, or set cache_dir=."
        case PermissionError():
            return f"no permission to use {error.filename or cache}. Change that, or set cache_dir=."
        case OSError() if "Consistency check failed" in str(error):
            return f"the download came out too short. {again}"
        case _ if type(error).__name__ in UNREACHABLE:
            return f"{endpoint} cannot be reached ({error}). Check the network, the proxy and HF_ENDPOINT."
        case _ if type(error).__module__.startswith("httpx"):
            return f"the connection to {endpoint} broke off ({error}). {again}"
        case _:
            return _one_line(str(error)) or type(error).__name__


def _explain_http(error: "HfHubHTTPError", endpoint: str) -> str:
    status = error.response.status_code
    said = f"HTTP {status}" + (f", {_one_line(error.server_message)}" if error.server_message else "")
    match status:
        case 401:
            return f"the token is not valid ({said}). Make one at {endpoint}/settings/tokens, then {LOG_IN}."
        case 403:
            return f"the Hub does not allow it ({said}). It takes a token with write access to that name."
        case 412:
            return f"the repository has changed meanwhile ({said}). Look at its history, then run it again."
        case 413 | 507:
            return f"the Hub has no room for the files ({said}). Free some of your storage there."
        case 429:
            return f"too many requests ({said}). Wait some minutes, then run it again."
        case _ if status >= 500:
            return f"the Hub is in trouble ({said}). Run it again later: complete files are kept."
        case _:
            return f"the Hub refused ({said})."


def _one_line(text: str) -> str:
    return " ".join(text.split())
