"""Publishing a converted folder on the Hub, if its verification passed."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.shown import shown_name
from ...keras_models.store.file_names import CONFIG, CONVERSION_FILE, FILES_RECORD, METADATA, TRAIN_FOLDER, WEIGHTS
from ...keras_models.store.folder import form_folders
from ...keras_models.store.foreign_files import check_regular
from ...keras_models.store.hub_errors import HubError
from .model_card import CARD_FILE, LICENSE_FILE, PICTURE_FILE, license_text, validate_card
from .records import VERIFICATION_FILE, read_record, weight_hashes, write_card
from .upload import upload_folder

_REPO_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_FORM_FILES = (CONFIG, METADATA, WEIGHTS)
_OTHER_FILES = (
    LICENSE_FILE,
    CONVERSION_FILE,
    VERIFICATION_FILE,
    PICTURE_FILE,
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


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
) -> Publication:
    """Uploads a converted folder whose verification passed for exactly the weights in it.

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

    Raises:
        PublishError: listing what keeps the folder from being published.
        HubError: where the Hub, the way to it or the disk fails.
    """
    folder, repo = Path(folder), repo.removeprefix("hf://")
    if not _REPO_ID.fullmatch(repo):
        raise HubError(f"Cannot upload to {shown_name(repo)}: name the repository as user/name.")
    problems = find_problems(folder)
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise PublishError(f"{folder} cannot be published:{listed}")
    tag = tag or _version_tag()
    with _staged(folder, repo) as staged:
        validate_card((staged / CARD_FILE).read_text(encoding="utf-8"))
        done = upload_folder(staged, repo, private=private, token=token, revision=revision, tag=tag, dry_run=dry_run)
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
    forms = form_folders(folder)
    if read_record(folder, CONFIG)["config"]["text_encoder"] is None:
        return ["it holds the image tower alone, and what is published is to classify by texts"]
    conversion, verification = read_record(folder, CONVERSION_FILE), read_record(folder, VERIFICATION_FILE)
    needed = _needed(folder)
    missing = [path for path in needed if not (folder / path).exists()]
    problems = [f"it has no {path}" for path in missing]
    for path in needed:
        if path not in missing:
            check_regular(folder / path, folder)
    if verification.get("passed") is True:
        problems += _unverified_forms(verification, tuple(forms))
    else:
        problems += _failures(verification)
    if not any(path.endswith(WEIGHTS) for path in missing):
        held = weight_hashes(folder)
        for name, record in ((CONVERSION_FILE, conversion), (VERIFICATION_FILE, verification)):
            noted = record.get("weights_sha256") or {}
            problems += [
                f"the {form} form is not the one that {name} is about: its weights have changed since"
                for form in held
                if noted.get(form) != held[form]
            ]
    if LICENSE_FILE not in missing and (folder / LICENSE_FILE).read_bytes() != license_text().encode():
        problems.append(f"its {LICENSE_FILE} is not Apple's licence of the weights, word for word")
    return problems + _unreadable(folder, missing)


def _needed(folder: Path) -> list[str]:
    """The files of a converted folder, without the model card."""
    places = form_folders(folder).values()
    forms = [(place / name).relative_to(folder).as_posix() for place in places for name in _FORM_FILES]
    return [*forms, *_OTHER_FILES]


def _failures(verification: dict[str, Any]) -> list[str]:
    """Which comparisons with PyTorch failed."""
    if "why" in verification:
        return [f"it was {verification['why']}"]
    failed = [
        f"the {check['form']} form failed its comparison with PyTorch in {dtype}"
        for dtype in ("float64", "float32")
        for check in verification.get(dtype, ())
        if not check["passed"]
    ]
    return failed or [f"its verification did not pass ({VERIFICATION_FILE})"]


def _unverified_forms(verification: dict[str, Any], forms: tuple[str, ...]) -> list[str]:
    return [
        f"the {form} form was not compared with PyTorch in {dtype}"
        for dtype in ("float64", "float32")
        for form in forms
        if form not in [check["form"] for check in verification.get(dtype, ())]
    ]


def _unreadable(folder: Path, missing: list[str]) -> list[str]:
    """What is wrong with the files of preprocessing and tokenizer."""
    problems = []
    for part, file in ((ImagePreprocessor, "preprocessor_config.json"), (Tokenizer, "tokenizer.json")):
        if file not in missing:
            try:
                part.from_pretrained(folder)
            except MobileClipError as error:
                problems.append(str(error).rstrip("."))
    return problems


@contextmanager
def _staged(folder: Path, repo: str) -> Iterator[Path]:
    """The files to publish: those of `folder`, its weights as links, and a model card for this repository."""
    with tempfile.TemporaryDirectory() as beside:
        staged = Path(beside) / folder.resolve().name
        (staged / TRAIN_FOLDER).mkdir(parents=True)
        for path in _needed(folder):
            source = (folder / path).resolve()
            # What is read again lies in the folder itself. The weights are large.
            if not (path.endswith(WEIGHTS) and _is_linked(staged / path, source)):
                shutil.copyfile(source, staged / path)
        write_card(staged, repo)
        yield staged


def _is_linked(link: Path, target: Path) -> bool:
    """Makes a link, and says whether the system has links."""
    try:
        link.symlink_to(target)
    except OSError:
        return False
    return True


def _left_out(folder: Path) -> tuple[str, ...]:
    known = {*_needed(folder), CARD_FILE, FILES_RECORD}
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(path for path in there if path not in known))


def _version_tag() -> str:
    try:
        return f"v{version('mobileclip-keras')}"
    except PackageNotFoundError:
        raise PublishError("The version of mobileclip-keras is not known: give a tag.") from None
