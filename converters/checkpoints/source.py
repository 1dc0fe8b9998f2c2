"""What --src may name: a file, a repository on the Hub, a variant of this package's own, or "synthetic"."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import VARIANTS, Variant, find_variant, get_variant
from ...keras_models.store.download import download_file
from ...keras_models.store.hub_errors import NoSuchFileError
from ...verify.data import synthetic
from ...verify.shapes.checkpoint import write_checkpoint
from .formats.torch_file import TORCH_SUFFIXES
from .identify import CheckpointFormat

SYNTHETIC = "synthetic"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".json")
# Usual names of weights in repositories that the registry does not know, the best first.
_USUAL_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


class SourceError(MobileClipError):
    """--src names nothing that can be converted."""


@contextmanager
def resolved(source: str | None, variant: str | None) -> Iterator[Path]:
    """The checkpoint file that `source` names. One that is made for it is removed when the context ends.

    Args:
        source: a file; a Hub repository ("apple/MobileCLIP-S2"); a variant whose weights this package holds ("shapes");
            or "synthetic" for a checkpoint with made-up values in the layout that the variant is published in. None
            for the variant's own weights, if this package holds them.
        variant: needed for "synthetic" and None.

    Raises:
        MobileClipError: where there is no such file or repository.
    """
    own = own_variant(source if source is not None else variant)
    if own is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{own.name}.safetensors"
            write_checkpoint(path)
            yield path
    elif source is None:
        raise SourceError(
            "Say with --src what to convert: a checkpoint file, a repository on the Hub, or synthetic. "
            f"Only {_own_names()} can be converted without."
        )
    elif source == SYNTHETIC and not Path(source).exists():
        if variant is None:
            raise SourceError("A synthetic checkpoint needs a --variant.")
        with tempfile.TemporaryDirectory() as folder:
            yield synthetic_checkpoint(variant, Path(folder))
    elif _is_repo_id(source):
        yield _download(source.removeprefix("hf://"))
    else:
        yield Path(source)


def own_variant(name: str | None) -> Variant | None:
    """The variant that a name means, if this package holds its weights. A file of that name goes first."""
    found = None if name is None or Path(name).exists() else find_variant(name)
    return found if found is not None and found.is_ours else None


def _own_names() -> str:
    return " and ".join(variant.short_name for variant in VARIANTS.values() if variant.is_ours)


def synthetic_checkpoint(variant: str, folder: Path, seed: int = 0) -> Path:
    """Writes a checkpoint with the published names and shapes of a variant and made-up values."""
    from safetensors.numpy import save_file

    found = get_variant(variant)
    text_tower = found.text_tower.removesuffix("_causal")
    checkpoint_format = CheckpointFormat(found.image_tower, text_tower, found.published.layout, "train")
    path = folder / f"{found.name}.safetensors"
    save_file(synthetic.state_dict(checkpoint_format.shapes.items(), seed), path)
    return path


def variant_of(source: str | None) -> str | None:
    """The variant that a Hub repository holds, by the registry or by its name; None where neither says.

    Only the repository's name tells some variants apart: their files have the same names and the same tensors.
    """
    if source is None or not _is_repo_id(source):
        return None
    repo = source.removeprefix("hf://")
    for variant in VARIANTS.values():
        if repo.lower() in (file.repo.lower() for file in variant.hub_files):
            return variant.name
    named = find_variant(repo.split("/")[-1])
    return None if named is None else named.name


def _is_repo_id(source: str) -> bool:
    if source.startswith("hf://"):
        return True
    return not Path(source).exists() and bool(_REPO_ID.fullmatch(source)) and not source.endswith(_FILE_SUFFIXES)


def _download(repo: str) -> Path:
    known = [
        file.file for variant in VARIANTS.values() for file in variant.hub_files if file.repo.lower() == repo.lower()
    ]
    failure: NoSuchFileError | None = None
    for file in known or _USUAL_FILES:
        try:
            return download_file(repo, file)
        except NoSuchFileError as error:  # any other error would meet the next file, too
            failure = failure or error
    assert failure is not None
    raise failure
