"""The test Hub's answers, one function a request, in the paths and JSON that huggingface_hub 2.4.0 speaks."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from .cards import card_problems
from .repository import GITATTRIBUTES, LARGE, Commit, Conflict, Entry, NotFound, Repository, lfs_entry

if TYPE_CHECKING:
    from .server import Hub


@dataclass(frozen=True)
class User:
    """Who a token belongs to: may write to `name/…` and `org/…` unless the token is for reading only."""

    name: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    user: User | None
    chunks: Callable[[], Iterator[bytes]]  # the body, as it arrives

    def body(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        return json.loads(self.body())


@dataclass
class Response:
    """A body of bytes, or a file whose ranges may be asked for."""

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An HTTP error, told as the Hub tells it: in headers and in a JSON body, which may hold more."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any):
        super().__init__(message)
        self.response = to_json({"error": message, **more}, status)
        self.response.headers["X-Error-Message"] = message
        if code:
            self.response.headers["X-Error-Code"] = code


def to_json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value).encode(), status, {"Content-Type": "application/json; charset=utf-8"})


Function = Callable[..., Response]
Routes = list[tuple[str, re.Pattern[str], Function]]
HUB_ROUTES: Routes = []
STORAGE_ROUTES: Routes = []
SEGMENTS = {"id": r"[^/]+/[^/]+", "rev": r"[^/]+", "path": r".+", "sha256": r"[0-9a-f]{64}"}


def route(methods: str, path: str, routes: Routes = HUB_ROUTES) -> Callable[[Function], Function]:
    """Registers a function for a path, whose `{id}`, `{rev}` and so on become its keyword arguments."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", lambda name: f"(?P<{name[1]}>{SEGMENTS[name[1]]})", path))

    def register(function: Function) -> Function:
        routes.extend((method, pattern, function) for method in methods.split())
        return function

    return register


def answer(hub: "Hub", request: Request, routes: Routes) -> Response:
    try:
        for method, pattern, function in routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                names = {name: unquote(text) for name, text in match.groupdict().items()}
                return function(hub, request, **names)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")
    except NotFound as error:
        return Refused(404, str(error), error.code).response
    except Refused as error:
        return error.response


def readable(hub: "Hub", request: Request, id: str) -> Repository:
    """The repository, if this user may know of it: to others a private one looks like a missing one."""
    repository = hub.repositories.get(id)
    if repository is None or (repository.private and not _is_member(request.user, id)):
        if request.user is None:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        raise Refused(404, "Repository not found", "RepoNotFound")
    return repository


def downloadable(hub: "Hub", request: Request, id: str) -> Repository:
    repository = readable(hub, request, id)
    if repository.gated and not _is_member(request.user, id):
        if request.user is None:
            raise Refused(401, f"Access to model {id} is restricted. Please log in.", "GatedRepo")
        if request.user.name not in repository.granted:
            raise Refused(403, f"Access to model {id} is restricted: you are not in its list.", "GatedRepo")
    return repository


def writable(hub: "Hub", request: Request, id: str) -> Repository:
    repository = readable(hub, request, id)
    _need_write(request.user, id)
    return repository


def _is_member(user: User | None, id: str) -> bool:
    return user is not None and id.split("/")[0] in (user.name, *user.orgs)


def _need_write(user: User | None, id: str) -> None:
    if user is None:
        raise Refused(401, "Invalid username or password.")
    if not (user.can_write and _is_member(user, id)):
        raise Refused(403, f"You don't have the rights to write to a model under {id.split('/')[0]}")


@route("GET", "/api/whoami-v2")
def whoami(hub: "Hub", request: Request) -> Response:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"name": org} for org in request.user.orgs]
    return to_json({"type": "user", "name": request.user.name, "orgs": orgs})


@route("POST", "/api/repos/create")
def create(hub: "Hub", request: Request) -> Response:
    wanted = request.json()
    if wanted.get("type", "model") != "model":
        raise Refused(400, "only models live here")
    id = f"{wanted['organization'] or (request.user.name if request.user else '')}/{wanted['name']}"
    _need_write(request.user, id)
    url = f"{hub.endpoint}/{id}"
    if id in hub.repositories:
        raise Refused(409, "You already created this model repo", url=url)
    hub.create(id, private=wanted.get("visibility") == "private")
    return to_json({"url": url, "name": id})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: "Hub", request: Request) -> Response:
    errors, warnings = card_problems(request.json()["content"])
    found = {"errors": errors, "warnings": warnings}
    messages = {kind: [{"message": text} for text in texts] for kind, texts in found.items()}
    return to_json(messages, 400 if errors else 200)


def _info(repository: Repository, commit: Commit) -> Response:
    return to_json(
        {
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.id.split("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "lastModified": commit.date,
            "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
            "tags": [],
        }
    )


@route("GET", "/api/models/{id}")
def info(hub: "Hub", request: Request, id: str) -> Response:
    return info_of_revision(hub, request, id, "main")


@route("GET", "/api/models/{id}/revision/{rev}")
def info_of_revision(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = readable(hub, request, id)
    return _info(repository, repository.resolve(rev))


@route("GET", "/api/models/{id}/tree/{rev}")
def tree(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = readable(hub, request, id)
    commit = repository.resolve(rev)
    recursive = request.query.get("recursive") == "true"
    items: list[dict[str, Any]] = []
    folders = {str(parent) for path in commit.tree for parent in list(PurePosixPath(path).parents)[:-1]}
    for path in sorted(folders):
        if recursive or "/" not in path:
            items.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
    for path, entry in sorted(commit.tree.items()):
        if recursive or "/" not in path:
            items.append({"type": "file", "path": path, "oid": entry.oid, "size": entry.size})
            if entry.lfs:
                items[-1]["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}
    return to_json(items)


@route("GET", "/api/models/{id}/refs")
def refs(hub: "Hub", request: Request, id: str) -> Response:
    repository = readable(hub, request, id)

    def listed(kind: str, references: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in references.items()]

    heads, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return to_json({"branches": heads, "converts": [], "tags": tags})


@route("GET", "/api/models/{id}/commits/{rev}")
def commits(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    return to_json(
        [
            {"id": c.oid, "title": c.title, "message": "", "date": c.date, "authors": [{"user": c.author}]}
            for c in readable(hub, request, id).history(rev)
        ]
    )


@route("POST", "/api/models/{id}/branch/{rev}")
def create_branch(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = writable(hub, request, id)
    return _point(repository, repository.branches, rev, request.json().get("startingPoint", "main"))


@route("POST", "/api/models/{id}/tag/{rev}")
def create_tag(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = writable(hub, request, id)
    return _point(repository, repository.tags, request.json()["tag"], rev)


@route("DELETE", "/api/models/{id}/tag/{rev}")
def delete_tag(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = writable(hub, request, id)
    if repository.tags.pop(rev, None) is None:
        raise NotFound("RevisionNotFound", f"Invalid rev id: {rev}")
    return to_json({})


def _point(repository: Repository, references: dict[str, str], name: str, revision: str) -> Response:
    try:
        repository.point(references, name, revision)
    except Conflict as error:
        raise Refused(409, str(error)) from error
    return to_json({})


@route("POST", "/api/models/{id}/preupload/{rev}")
def preupload(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    """Says how to send each file, and the oid of what stands there now, so that a client can leave it out."""
    repository = writable(hub, request, id)
    head = repository.resolve(rev)
    files: list[dict[str, Any]] = []
    for file in request.json()["files"]:
        lfs = repository.is_lfs(head, file["path"], file["size"])
        files.append({"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
        if (entry := head.tree.get(file["path"])) is not None:
            files[-1]["oid"] = entry.etag
    return to_json({"files": files})


@route("POST", "/{id}.git/info/lfs/objects/batch")
def lfs_batch(hub: "Hub", request: Request, id: str) -> Response:
    """Where to PUT each LFS object; no actions for one that is stored."""
    writable(hub, request, id)
    objects: list[dict[str, Any]] = []
    for wanted in request.json()["objects"]:
        objects.append({"oid": wanted["oid"], "size": wanted["size"]})
        if wanted["oid"] not in hub.blobs:
            objects[-1]["actions"] = {
                "upload": {"href": f"{hub.storage_endpoint}/lfs/{wanted['oid']}"},
                "verify": {"href": f"{hub.endpoint}/{id}.git/info/lfs/objects/verify"},
            }
    return to_json({"transfer": "basic", "objects": objects})


@route("POST", "/{id}.git/info/lfs/objects/verify")
def lfs_verify(hub: "Hub", request: Request, id: str) -> Response:
    writable(hub, request, id)
    wanted = request.json()
    if wanted["oid"] not in hub.blobs or hub.blobs.path(wanted["oid"]).stat().st_size != wanted["size"]:
        raise Refused(404, "object not found or of another size")
    return to_json({})


@route("POST", "/api/models/{id}/commit/{rev}")
def commit(hub: "Hub", request: Request, id: str, rev: str) -> Response:
    repository = writable(hub, request, id)
    header: dict[str, Any] = {}
    added: dict[str, Entry] = {}
    deleted: list[str] = []
    for line in request.body().splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                header = value
            case "file":
                content = base64.b64decode(value["content"])
                if len(content) > LARGE:
                    raise Refused(413, f"{value['path']} is too large for a regular file")
                added[value["path"]] = repository.regular_entry(content)
            case "lfsFile":
                if value["oid"] not in hub.blobs:
                    raise Refused(400, f"LFS object of {value['path']} was never uploaded")
                added[value["path"]] = lfs_entry(value["oid"], hub.blobs.path(value["oid"]).stat().st_size)
            case "deletedFile":
                deleted.append(value["path"])
            case key:
                raise Refused(400, f"unknown commit line: {key}")
    assert request.user is not None
    title, author, parent = header["summary"], request.user.name, header.get("parentCommit")
    try:
        made = repository.commit(rev, title, author, added, deleted, parent)
    except Conflict as error:
        raise Refused(412, str(error)) from error
    url = f"{hub.endpoint}/{id}/commit/{made.oid}"
    return to_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


@route("HEAD GET", "/{id}/resolve/{rev}/{path}")
def resolve(hub: "Hub", request: Request, id: str, rev: str, path: str) -> Response:
    """A regular file itself; for an LFS file, the way to the storage host."""
    repository = downloadable(hub, request, id)
    commit = repository.resolve(rev)
    headers = {"X-Repo-Commit": commit.oid}
    try:
        entry = repository.entry(commit, path)
    except NotFound as error:
        refused = Refused(404, str(error), error.code)
        refused.response.headers |= headers
        raise refused from error
    headers["ETag"] = f'"{entry.etag}"'
    if not entry.lfs:
        return Response(hub.blobs.path(entry.sha256), 200, headers)
    headers |= {"X-Linked-Etag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}
    headers["Location"] = f"{hub.storage_endpoint}/lfs/{entry.sha256}?filename={quote(path, safe='')}"
    return Response(b"", 302, headers)


@route("HEAD GET", "/datasets/{id}/resolve/{rev}/{path}")
def resolve_data(hub: "Hub", request: Request, id: str, rev: str, path: str) -> Response:
    """As `resolve`, of a data set, which is kept as "datasets/user/name"."""
    return resolve(hub, request, f"datasets/{id}", rev, path)


@route("PUT", "/lfs/{sha256}", STORAGE_ROUTES)
def storage_put(hub: "Hub", request: Request, sha256: str) -> Response:
    try:
        hub.blobs.add(request.chunks(), sha256)
    except ValueError as error:
        raise Refused(400, str(error)) from error
    return Response()


@route("HEAD GET", "/lfs/{sha256}", STORAGE_ROUTES)
def storage_get(hub: "Hub", request: Request, sha256: str) -> Response:
    if sha256 not in hub.blobs:
        raise Refused(404, "no such object")
    return Response(hub.blobs.path(sha256), 200, {"ETag": f'"{sha256}"'})


def first_commit(repository: Repository) -> None:
    """What the Hub puts into every new repository."""
    entry = repository.regular_entry(GITATTRIBUTES.encode())
    repository.commit("main", "initial commit", repository.id.split("/")[0], {".gitattributes": entry})
