"""Publishing a converted folder on the Hub, if its verification passed."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import VARIANTS
from ...keras_models.shown import shown_name
from ...keras_models.store.file_names import CONVERSION_FILE, FILES_RECORD, TRAIN_FOLDER, WEIGHTS
from ...keras_models.store.folder import form_folders, read_config
from ...keras_models.store.hub_errors import HubError
from .agreement import find_disagreements
from .certificates import read_certificates
from .contents import file_hashes, find_changes, published_files
from .model_card import CARD_FILE, LICENSE_FILE, validate_card
from .records import VERIFICATION_FILE, RecordError, file_digest, read_record, write_card
from .terms import Terms, terms_of
from .trial import find_differences
from .upload import upload_folder
from .verdict import find_faults, find_gaps

_REPO_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


class PublishError(MobileClipError):
    """A folder is not fit to be published; the message lists everything that it lacks."""


@dataclass(frozen=True)
class PublishedFile:
    """One file of a publication."""

    path: str
    """In the repository."""
    size: int
    """In bytes."""
    sent: bool
    """Whether it was uploaded, or would be. The repository holds the other files already, bit for bit."""


@dataclass(frozen=True)
class Publication:
    """What `publish` did, or would do."""

    url: str
    commit: str | None
    """What the tag names; None for a dry run that found something to upload."""
    tag: str
    files: tuple[PublishedFile, ...]
    left_out: tuple[str, ...]
    """Files of the folder that do not belong to a converted model. They are not uploaded."""
    would_create: bool = False
    """Of a dry run: whether this user sees no repository of that name."""

    def to_json(self) -> dict[str, Any]:
        """For the command line's --json."""
        return asdict(self)


def publish(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    evaluations: Sequence[str | Path] = (),
) -> Publication:
    """Uploads a converted folder whose verification passed for exactly the files in it.

    Each form is loaded and run on a few of the fixed inputs before anything is sent.

    The model card is written for this repository; the folder itself does not change. One commit holds everything and
    gets the tag. Files that the repository holds already are not sent again.

    Args:
        folder: what `convert` wrote.
        repo: "user/name"; made where there is none.
        private: whether a new repository is private.
        dry_run: whether to check and compare everything, and to change nothing.
        token: with write access; None for HF_TOKEN or the login of the Hub's client. A dry run needs none.
        revision: the branch to upload to; None for main.
        tag: of the commit; None for "v" and the version of this package. A tag never moves.
        evaluations: certificates that `evaluate` wrote, whose figures the model card shows.

    Raises:
        PublishError: listing what keeps the folder from being published.
        HubError: where the Hub, the way to it or the disk fails.
    """
    folder, repo = Path(folder), repo.removeprefix("hf://")
    if not _REPO_ID.fullmatch(repo):
        raise HubError(f"Cannot upload to {shown_name(repo)}: name the repository as user/name.")
    problems, hashes = _look_at(folder)
    certificates: tuple[dict[str, Any], ...] = ()
    if evaluations:
        variant = read_record(folder, CONVERSION_FILE)["variant"]
        certificates, wrong = read_certificates(evaluations, hashes, variant)
        problems += wrong
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise PublishError(f"{folder} cannot be published:{listed}")
    tag = tag or _version_tag()
    with _staged(folder, repo, hashes, certificates) as staged:
        variant = VARIANTS[read_record(staged, CONVERSION_FILE)["variant"]]
        validate_card((staged / CARD_FILE).read_text(encoding="utf-8"), terms_of(variant))
        hashes[CARD_FILE] = file_digest(staged / CARD_FILE, staged)
        done = upload_folder(
            staged, repo, private=private, token=token, revision=revision, tag=tag, dry_run=dry_run, hashes=hashes
        )
        files = tuple(
            PublishedFile(path, (staged / path).stat().st_size, path in done.files_uploaded)
            for path in sorted((*done.files_uploaded, *done.files_unchanged))
        )
    return Publication(done.url, done.commit, tag, files, _left_out(folder), done.would_create)


def find_problems(folder: Path) -> list[str]:
    """The reasons why a converted folder cannot be published, in words; empty where it can.

    Raises:
        MobileClipError: where the folder holds no converted model, or its records cannot be read.
    """
    return _look_at(folder)[0]


def _look_at(folder: Path) -> tuple[list[str], dict[str, str]]:
    """What is wrong with a folder, and the SHA-256 of each of its files while it was looked at."""
    configs = {form: read_config(place, folder)["config"] for form, place in form_folders(folder).items()}
    if next(iter(configs.values()))["text_encoder"] is None:
        return ["it holds the image tower alone, and what is published is to classify by texts"], {}
    # The hashes come first, so that nothing that is read below can change unseen.
    hashes = file_hashes(folder)
    hashes[VERIFICATION_FILE] = _record_hash(folder)
    conversion, verification = read_record(folder, CONVERSION_FILE), read_record(folder, VERIFICATION_FILE)
    missing = [path for path in published_files(folder) if path not in hashes]
    problems = [f"it has no {path}" for path in missing]
    gaps = find_gaps(verification)
    problems += gaps or find_faults(verification, configs)
    if "files_sha256" in verification:
        bound = {path: digest for path, digest in hashes.items() if path != VERIFICATION_FILE}
        problems += find_changes(bound, verification, missing)
    variant = VARIANTS.get(conversion["variant"])  # that there is none such is among the disagreements
    if variant is not None and LICENSE_FILE not in missing:
        problems += _license_problems(folder, terms_of(variant))
    disagreements = find_disagreements(folder, conversion, verification, missing)
    problems += disagreements
    if not (gaps or disagreements or any(path.endswith(WEIGHTS) for path in missing)):
        problems += find_differences(folder, conversion, verification, tuple(configs))
    return problems, hashes


def _license_problems(folder: Path, terms: Terms) -> list[str]:
    if (folder / LICENSE_FILE).read_bytes() == terms.text.encode():
        return []
    return [f"its {LICENSE_FILE} is not {terms.holder} of the weights, word for word"]


def _record_hash(folder: Path) -> str:
    try:
        return file_digest(folder / VERIFICATION_FILE, folder)
    except FileNotFoundError as error:
        raise RecordError(f"{folder} has no {VERIFICATION_FILE}: it was not written by convert.") from error


@contextmanager
def _staged(
    folder: Path, repo: str, hashes: dict[str, str], certificates: tuple[dict[str, Any], ...]
) -> Iterator[Path]:
    """The files to publish: those of `folder`, its weights as links, and a model card for this repository.

    Args:
        folder: that was looked at.
        repo: for the card.
        hashes: of each file when it was looked at.
        certificates: for the card.

    Raises:
        PublishError: where a file is another by now.
    """
    with tempfile.TemporaryDirectory() as beside:
        staged = Path(beside) / folder.resolve().name
        (staged / TRAIN_FOLDER).mkdir(parents=True)
        for path in hashes:
            source = (folder / path).resolve()
            # What is read again lies in the folder itself. The weights are large.
            if not (path.endswith(WEIGHTS) and _is_linked(staged / path, source)):
                shutil.copyfile(source, staged / path)
        # Links to weights are left to the upload, which reads them anyway.
        copied = [path for path in hashes if not (staged / path).is_symlink()]
        changed = [path for path in copied if file_digest(staged / path, staged) != hashes[path]]
        if changed:
            raise PublishError(f"{folder} was changed while it was looked at: {', '.join(changed)}. Publish it again.")
        write_card(staged, repo, certificates)
        yield staged


def _is_linked(link: Path, target: Path) -> bool:
    """Makes a link, and says whether the system has links."""
    try:
        link.symlink_to(target)
    except OSError:
        return False
    return True


def _left_out(folder: Path) -> tuple[str, ...]:
    known = {*published_files(folder), CARD_FILE, FILES_RECORD}
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(path for path in there if path not in known))


def _version_tag() -> str:
    try:
        return f"v{version('mobileclip-keras')}"
    except PackageNotFoundError:
        raise PublishError("The version of mobileclip-keras is not known: give a tag.") from None
