"""What a conversion will do, decided before any array is read."""

from dataclasses import dataclass
from pathlib import Path

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import Variant
from ...keras_models.store.writing.targets import check_target
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.identify import CheckpointFormat, choose_variant, format_notes, identify

FORM_CHOICES = ("both", "inference", "train")
DTYPE_CHOICES = ("float32", "float16", "bfloat16", "keep")


@dataclass(frozen=True)
class Plan:
    """What `convert` decided from names, shapes and dtypes alone."""

    target: Path
    """The folder to write."""
    variant: Variant
    format: CheckpointFormat
    forms: tuple[str, ...]
    """The forms to write, the default one of the folder first."""
    source_dtype: str
    """Of most floating-point tensors in the file."""
    dtype: str
    """Of the weights to write."""
    notes: tuple[str, ...]
    """What is odd about the file, or differs between it and the folder."""
    like_open_clip: bool
    """Whether ViT-B/16 computes as open_clip does."""

    @property
    def computing_dtype(self) -> str:
        """In which the model is built and verified. Half precision is rounded from float32 when it is written."""
        return "float64" if self.dtype == "float64" else "float32"


def make_plan(
    source: Path,
    checkpoint: Checkpoint,
    out: Path | None,
    *,
    variant: str | None,
    form: str,
    dtype: str,
    force: bool,
    like_open_clip: bool,
) -> Plan:
    """Decides what to do with an opened checkpoint. The other arguments are those of `convert`.

    Raises:
        MobileClipError: where the checkpoint, the variant, the form, the dtype or the target does not fit.
    """
    checkpoint_format = identify(checkpoint.shapes, checkpoint.named)
    found = choose_variant(checkpoint_format, variant, source, checkpoint.causal)
    target = out if out is not None else Path(f"{found.name}-keras")
    check_target(target, force)
    forms = _forms(form, checkpoint_format)
    source_dtype = _source_dtype(checkpoint)
    dtype = _dtype_to_write(dtype, source_dtype)
    notes = (*checkpoint.notes, *_notes(checkpoint_format, source_dtype, dtype))
    return Plan(target, found, checkpoint_format, forms, source_dtype, dtype, notes, like_open_clip)


def check_choices(form: str, dtype: str) -> None:
    """Raises MobileClipError for a form or a dtype that `convert` does not offer."""
    if form not in FORM_CHOICES or dtype not in DTYPE_CHOICES:
        raise MobileClipError(f"form is one of {', '.join(FORM_CHOICES)}, dtype one of {', '.join(DTYPE_CHOICES)}.")


def _forms(form: str, checkpoint_format: CheckpointFormat) -> tuple[str, ...]:
    """The forms to write, the default one of the folder first."""
    if checkpoint_format.form == "train":
        return ("inference", "train") if form == "both" else (form,)
    if form == "train":
        raise MobileClipError(
            "This checkpoint was reparameterised: its branches are gone, so there is no train form to write. "
            "Use --form inference."
        )
    return ("inference",)


def _source_dtype(checkpoint: Checkpoint) -> str:
    """The dtype of most floating-point tensors in the file."""
    floats = [dtype for dtype in checkpoint.dtypes.values() if "float" in dtype]
    return max(set(floats), key=floats.count, default="float32")


def _dtype_to_write(asked: str, source_dtype: str) -> str:
    dtype = source_dtype if asked == "keep" else asked
    if dtype not in (*DTYPE_CHOICES, "float64"):
        raise MobileClipError(f"The weights are {dtype}, which cannot be kept. Choose another --dtype.")
    return dtype


def _notes(checkpoint_format: CheckpointFormat, source_dtype: str, dtype: str) -> list[str]:
    rounded = [f"weights are {source_dtype} in the file and {dtype} in the folder"] if source_dtype != dtype else []
    return [*rounded, *format_notes(checkpoint_format)]
