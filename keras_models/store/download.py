"""Getting files from the Hugging Face Hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from .hub_errors import bare_id, hub_endpoint, is_offline, plain_errors
from .writing.own_files import sha256


def download_file(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    again: bool = False,
    repo_type: str = "model",
) -> Path:
    """One file of a repository, downloaded if the cache does not hold it.

    An interrupted download leaves no file.

    Args:
        repo_id: "user/name" or "hf://user/name".
        filename: its path in the repository.
        revision: a branch, tag or commit; None for main.
        token: for the Hub; None for HF_TOKEN or the login of the Hub's client.
        cache_dir: None for the Hub client's own cache.
        local_files_only: whether to use the cache alone.
        again: whether to download it also where the cache holds it.
        repo_type: "model" or "dataset".

    Raises:
        HubError: saying what the Hub, the way to it or the disk lacks.
    """
    from huggingface_hub import hf_hub_download

    page = f"datasets/{repo_id}" if repo_type == "dataset" else repo_id
    with plain_errors(f"get {filename} of {repo_id}", page, revision, cache_dir):
        path = hf_hub_download(
            bare_id(repo_id),
            filename,
            repo_type=repo_type,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only or is_offline(),
            force_download=again,
            endpoint=hub_endpoint(),
        )
    return Path(path)


def is_damaged(downloaded: Path) -> bool:
    """Whether a file in the cache is not what was downloaded.

    The Hub's client names a large file after its SHA-256, and leads to it by a link. Of a file with another name,
    nothing is known.
    """
    named = downloaded.resolve()
    return re.fullmatch("[0-9a-f]{64}", named.name) is not None and sha256(named) != named.name


def download_files(
    repo_id: str,
    filenames: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that holds these files of a repository, all of one commit, downloaded where the cache lacks them.

    The folder is named after the commit. Arguments and errors are those of `download_file`.
    """
    folder: Path | None = None
    for filename in filenames:
        path = download_file(
            repo_id,
            filename,
            revision=revision if folder is None else folder.name,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        folder = folder or path.parents[filename.count("/")]
    assert folder is not None
    return folder


def download_snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | None = None,
) -> Path:
    """A folder that holds the repository's files, or those that match `allow_patterns` ("*.json").

    A pattern that matches no file is no error. The other arguments and errors are those of `download_file`.
    """
    from huggingface_hub import snapshot_download

    with plain_errors(f"get {repo_id}", repo_id, revision, cache_dir):
        path = snapshot_download(
            bare_id(repo_id),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only or is_offline(),
            allow_patterns=allow_patterns,
            endpoint=hub_endpoint(),
        )
    return Path(path)
