"""Uploading a folder to the Hugging Face Hub in one commit, without sending what the repository holds already."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...keras_models.store.hub_errors import LOG_IN, HubError, bare_id, hub_endpoint, is_offline, plain_errors
from ...keras_models.store.writing.own_files import sha256

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile


CARD = "README.md"


@dataclass(frozen=True)
class UploadResult:
    """What an upload did, or would do."""

    url: str
    """The repository's page."""
    commit: str | None
    """The commit that holds the folder; None for a dry run that found something to upload."""
    files_uploaded: tuple[str, ...]
    """Paths in the repository."""
    files_unchanged: tuple[str, ...]
    """Paths of the files that the repository held already, bit for bit."""
    would_create: bool = False
    """Of a dry run: whether this user sees no repository of that name."""


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    dry_run: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> UploadResult:
    """Puts a folder's files into a model repository in one commit.

    Files that the repository holds already are not sent again. Files that only the repository has stay there. Names
    that start with a dot are left out.

    Args:
        folder: of files to upload.
        repo_id: "user/name"; made if need be.
        private: whether a new repository is private.
        token: with write access; None for HF_TOKEN or the login of the Hub's client.
        revision: the branch, made if need be; None for main.
        tag: a name for the resulting commit. A tag on another commit does not move.
        dry_run: whether to read both sides and write to neither. For a public repository this needs no token.

    Raises:
        HubError: where the Hub, the way to it or the disk fails; also where `private` is asked for and the
            repository is public.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    files = _files(folder)
    repo_id = bare_id(repo_id)
    branch = revision or "main"
    cannot = f"Cannot upload to {repo_id}"
    if repo_id.count("/") != 1:
        raise HubError(f"{cannot}: name the repository as user/name.")
    if is_offline():
        raise HubError(f"{cannot}: HF_HUB_OFFLINE is set. Unset it to publish.")
    with plain_errors(f"upload to {repo_id}", repo_id, revision):
        if not (dry_run or token or get_token()):
            raise HubError(f"{cannot}: no token with write access. To give one, {LOG_IN}.")
        api = HfApi(endpoint=hub_endpoint(), token=token)
        if not dry_run:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            if branch != "main":
                api.create_branch(repo_id, branch=branch, exist_ok=True)
        head = _head(api, repo_id, branch)
        if private and head is not None and not head.private:
            raise HubError(f"{cannot} as private: it is public. Change that there, or choose another name.")
        stored = _stored_files(api, repo_id, head)
        _check_hashes(folder, files, hashes)
        unchanged = tuple(path for path in files if path in stored and _same(files[path], stored[path]))
        changed = tuple(path for path in files if path not in unchanged)
        if tag and head is not None:
            _check_tag(api, repo_id, tag, None if changed else head.sha)
        commit = None if head is None or changed else head.sha
        if changed and not dry_run:
            additions = [CommitOperationAdd(path, files[path]) for path in changed]
            _check_told(folder, additions, hashes)
            if CARD in changed:
                _check_card(api, files[CARD])
            # Large files are sent first, and become part of the repository with the commit alone.
            api.preupload_lfs_files(repo_id, additions, revision=branch, free_memory=False)
            _check_told(folder, additions, hashes)  # some ways of sending hash what they send
            _check_hashes(folder, files, hashes)
            commit = api.create_commit(
                repo_id,
                additions,
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


def _check_card(api: "HfApi", card: Path) -> None:
    """Raises HubError where the Hub refuses a card. `create_commit` asks, too, but large files are sent before it."""
    from huggingface_hub import get_session

    content = {"content": card.read_text(encoding="utf-8"), "repoType": "model"}
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json=content)
    if answer.status_code == 400:
        wrong = " ".join(f"- {error.get('message')}" for error in answer.json().get("errors", ()))
        raise HubError(f"Invalid metadata in {card.name}. {wrong}")


def _check_hashes(folder: Path, files: dict[str, Path], hashes: Mapping[str, str] | None) -> None:
    """Raises HubError unless the files are exactly those of the hashes."""
    if hashes is None:
        return
    held = {path: sha256(file) for path, file in files.items() if file.is_file()}
    _refuse(folder, [path for path in files.keys() | hashes.keys() if held.get(path) != hashes.get(path)])


def _check_told(folder: Path, additions: list["CommitOperationAdd"], hashes: Mapping[str, str] | None) -> None:
    """Raises HubError unless the Hub is told these hashes: it stores a large file by what it is told."""
    told = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
    _refuse(folder, [path for path in told if hashes is not None and told[path] != hashes.get(path)])


def _refuse(folder: Path, changed: list[str]) -> None:
    if changed:
        listed = ", ".join(sorted(changed))
        raise HubError(f"{folder.name} was changed while it was published, and was not published: {listed}.")


def _head(api: "HfApi", repo_id: str, branch: str) -> "ModelInfo | None":
    """The commit that an upload starts from; None where there is no such repository yet."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.model_info(repo_id, revision=branch)
    except RevisionNotFoundError:  # a new branch starts at main
        return api.model_info(repo_id, revision="main")
    except RepositoryNotFoundError:
        return None


def _stored_files(api: "HfApi", repo_id: str, head: "ModelInfo | None") -> dict[str, "RepoFile"]:
    from huggingface_hub.hf_api import RepoFile

    items = api.list_repo_tree(repo_id, recursive=True, revision=head.sha) if head else ()
    return {item.path: item for item in items if isinstance(item, RepoFile)}


def _same(file: Path, stored: "RepoFile") -> bool:
    """Whether the Hub's file has this file's content. The Hub gives a hash: LFS's for large files, else git's."""
    size = file.stat().st_size
    if size != stored.size:
        return False
    digest = hashlib.sha256() if stored.lfs else hashlib.sha1(b"blob %d\0" % size)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == (stored.lfs.sha256 if stored.lfs else stored.blob_id)


def _check_tag(api: "HfApi", repo_id: str, tag: str, commit: str | None) -> None:
    """Raises HubError if the tag stands on another commit than this one; None for a commit not made yet."""
    tags = {reference.name: reference.target_commit for reference in api.list_repo_refs(repo_id).tags}
    if tag in tags and tags[tag] != commit:
        raise HubError(f"{repo_id} has a tag {tag}, on other content ({tags[tag][:7]}): choose another tag.")
