"""What goes wrong with the Hugging Face Hub, in words that a person can act on.

`huggingface_hub` does the work: its cache, its retries, its resuming. Every failure of the client, of its HTTP library
and of the disk becomes a `HubError`. `HF_ENDPOINT` and `HF_HUB_OFFLINE` are read at each call; the client reads
`HF_TOKEN` and the login.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MobileClipError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Names of the HTTP library's errors. Their classes are not imported, as the client may change its library.
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
LOG_IN = "log in with `hf auth login`, set HF_TOKEN or pass token="


class HubError(MobileClipError):
    """The Hub, the way to it or the disk failed; the message says what to do."""


class NoSuchFileError(HubError):
    """The repository does not hold a file; or only the local cache may be used, and it does not hold the file."""


def bare_id(repo_id: str) -> str:
    """A repository's id without "hf://"."""
    return repo_id.removeprefix("hf://")


def hub_endpoint() -> str | None:
    """The Hub's address in HF_ENDPOINT; None for the usual one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, now or when the Hub's client was imported."""
    from huggingface_hub import constants

    told_now = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return told_now or constants.HF_HUB_OFFLINE


@contextmanager
def plain_errors(doing: str, repo_id: str, revision: str | None, cache_dir: str | Path | None = None) -> Iterator[None]:
    """Turns what the client raises inside into a HubError.

    Args:
        doing: what fails, in words: "Cannot {doing}: ...".
        repo_id: the repository.
        revision: the one asked for.
        cache_dir: the one given; None for the client's own.
    """
    from huggingface_hub import errors

    # The client's errors have no base class in common. Among them is the base class of its HTTP library's errors.
    named = vars(errors).values()
    known: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    known += tuple(found for found in named if isinstance(found, type) and issubclass(found, Exception))
    # These say only that something failed. Their cause says what.
    wrappers = (RuntimeError, errors.LocalEntryNotFoundError)
    try:
        yield
    except known as error:
        reason: BaseException = error
        while isinstance(reason, wrappers) and reason.__cause__ is not None:
            reason = reason.__cause__
        explained = _explain(reason, bare_id(repo_id), revision or "main", cache_dir)
        missing = (errors.RemoteEntryNotFoundError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        hub_error = NoSuchFileError if isinstance(reason, missing) else HubError
        raise hub_error(f"Cannot {doing}: {explained}") from error


def _explain(error: BaseException, repo_id: str, revision: str, cache_dir: str | Path | None) -> str:
    """What is wrong and what to do, in a sentence each."""
    from huggingface_hub import constants, errors

    cache = cache_dir or constants.HF_HUB_CACHE
    endpoint = hub_endpoint() or constants.ENDPOINT
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
