"""What the test Hub keeps: bytes on disk by their SHA-256, and repositories as histories of commits."""

import errno
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

LFS_SUFFIXES = ("bin", "h5", "keras", "npz", "onnx", "parquet", "png", "pt", "pth", "safetensors", "zip")
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
LARGE = 10 * 1024 * 1024  # bytes; a larger file is stored as LFS whatever its name


class NotFound(Exception):
    """Nothing by that name; `code` is the Hub's X-Error-Code."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Conflict(Exception):
    """The name is taken, or the branch has moved on."""


class BlobStore:
    """Byte strings in a folder, each in a file named by its SHA-256; never more than `quota` bytes in all."""

    def __init__(self, folder: Path, quota: int | None = None):
        self.folder = folder
        self.quota = quota
        folder.mkdir(parents=True)

    def add(self, chunks: Iterable[bytes], sha256: str | None = None) -> str:
        """Stores the joined chunks, whole or not at all, under their SHA-256; ValueError if not `sha256`."""
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with open(handle, "wb") as file:
                for chunk in chunks:
                    self._make_room(len(chunk))
                    digest.update(chunk)
                    file.write(chunk)
                    file.flush()
            if sha256 not in (None, digest.hexdigest()):
                raise ValueError(f"content has SHA-256 {digest.hexdigest()}, expected {sha256}")
            os.replace(name, self.path(digest.hexdigest()))
        finally:
            Path(name).unlink(missing_ok=True)
        return digest.hexdigest()

    def _make_room(self, size: int) -> None:
        used = sum(file.stat().st_size for file in self.folder.iterdir())
        if self.quota is not None and used + size > self.quota:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def __contains__(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.iterdir())


def git_oid(content: bytes) -> str:
    """The id that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One file of one commit; `oid` is git's id of what git stores, for LFS a pointer to the bytes."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


def lfs_entry(sha256: str, size: int) -> Entry:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Entry(sha256, size, git_oid(pointer.encode()), lfs=True)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    tree: dict[str, Entry]
    title: str
    author: str
    date: str


@dataclass
class Repository:
    """One model repository: commits by oid, and the branches and tags that point at them."""

    id: str
    blobs: BlobStore
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)  # names of users whom a gated repository lets in
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a commit id or at least seven of its first characters names."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise NotFound("RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def entry(self, commit: Commit, path: str) -> Entry:
        if path not in commit.tree:
            raise NotFound("EntryNotFound", "Entry not found")
        return commit.tree[path]

    def regular_entry(self, content: bytes) -> Entry:
        return Entry(self.blobs.add([content]), len(content), git_oid(content), lfs=False)

    def is_lfs(self, commit: Commit, path: str, size: int) -> bool:
        """Whether such a file belongs into LFS, by the repository's .gitattributes or by its size."""
        rules = ""
        if ".gitattributes" in commit.tree:
            rules = self.blobs.path(commit.tree[".gitattributes"].sha256).read_text()
        patterns = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        return size > LARGE or any(fnmatch(PurePosixPath(path).name, pattern) for pattern in patterns)

    def commit(
        self,
        branch: str,
        title: str,
        author: str,
        added: dict[str, Entry],
        deleted: Iterable[str] = (),
        parent: str | None = None,
    ) -> Commit:
        """Puts one commit on a branch; with `parent`, only if the branch still stands there."""
        with self.lock:
            head = self.branches.get(branch)
            if self.commits and head is None:
                raise NotFound("RevisionNotFound", f"Invalid rev id: {branch}")
            if parent is not None and head is not None and not head.startswith(parent):
                raise Conflict("A commit has happened since. Please refresh and try again.")
            tree = dict(self.commits[head].tree) if head else {}
            for path in deleted:
                if path not in tree:
                    raise NotFound("EntryNotFound", "A file with this name doesn't exist")
                del tree[path]
            tree |= added
            date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            state = [head, {path: entry.oid for path, entry in sorted(tree.items())}, title, author, date]
            oid = hashlib.sha1(json.dumps(state).encode()).hexdigest()
            self.commits[oid] = Commit(oid, head, tree, title, author, date)
            self.branches[branch] = oid
            return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commits from a revision back to the first one."""
        commits = [self.resolve(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def point(self, references: dict[str, str], name: str, revision: str) -> None:
        """Makes a new branch or tag at a revision."""
        oid = self.resolve(revision).oid
        with self.lock:
            if name in references:
                raise Conflict(f"Reference already exists: {name}")
            references[name] = oid
