"""PyTorch's features, from a process of its own, which may run beside others."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..contents.bundle import request_to_json
from ..processes import RunJob, beside
from ..request import Request
from ..sources import Source
from .reference import Truth


@contextmanager
def computing(
    found: Source, request: Request, source: Path | None, run_job: RunJob, more: bool = False
) -> Iterator[tuple[RunJob, Callable[[], Truth]]]:
    """Within this context, PyTorch computes the features of the proof's inputs.

    Args:
        found: the folder.
        request: says which towers and inputs.
        source: the checkpoint; None for the train form in the folder.
        run_job: runs the job.
        more: as for `compute_truth`.

    Yields:
        What runs other jobs beside this one, as `beside` has it, and what waits for the features.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "truth.npz")
        spec = {
            "folder": str(found.folder),
            "request": request_to_json(request),
            "variant": found.variant.name,
            "conversion": dict(found.conversion),
            "source": None if source is None else str(source),
            "image_size": found.image_size,
            "more": more,
            "out": str(file),
        }
        with beside(run_job, "reference", spec, "torch") as (run_others, wait):

            def truth() -> Truth:
                wait()
                return Truth.load(file)

            yield run_others, truth


def compute(found: Source, request: Request, source: Path | None, run_job: RunJob, more: bool = False) -> Truth:
    """PyTorch's features of the proof's inputs. The arguments are those of `computing`."""
    with computing(found, request, source, run_job, more) as (_, truth):
        return truth()
