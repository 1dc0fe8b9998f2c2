"""Proving a bundle again: from its golden inputs, or from the checkpoint where that is at hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....keras_models.registry import get_variant
from ....keras_models.store.file_names import BUNDLE_FILE
from ....keras_models.store.foreign.foreign_files import check_regular
from ....keras_models.store.foreign.json_file import read_json
from ....keras_models.store.writing.own_files import sha256 as file_sha256
from ...conversion.progress import Progress, silent
from ..contents import golden
from ..contents.bundle import PROOF_FILE, file_hashes, read_bundle, request_from_json
from ..export import judge
from ..processes import RunJob, in_own_process
from ..quantize.trial import tower_bytes
from ..request import DeployError, Request
from ..sources import Source
from .computing import compute
from .inputs import proof_inputs
from .proof import Check, Stored, prove


@dataclass(frozen=True)
class Proof:
    """What proving a bundle gave."""

    checks: list[Check]
    against: str
    """In words."""
    stored: Stored
    """How the weights are kept."""
    note: str = ""
    """What could not be proven here."""

    @property
    def passed(self) -> bool:
        """Whether everything that is judged passed."""
        return all(check.passed for check in self.checks if check.judged)


def verify_bundle(
    folder: Path, source: Path | None = None, *, progress: Progress = silent, run_job: RunJob = in_own_process
) -> Proof:
    """Runs a bundle's files in their runtime and compares them.

    Args:
        folder: the bundle.
        source: the checkpoint that it comes from; None for the golden inputs and outputs in the bundle.
        progress: shows steps.
        run_job: runs PyTorch.

    Raises:
        MobileClipError: where a file is missing, added, changed or of another size than the certificate of rounded
            weights states, or the runtime is not installed.
    """
    about = read_bundle(folder)
    request = request_from_json(about["request"])
    stored = stored_as(about)
    _check_files(folder, about["files"])
    if "quantization" in about:
        _check_sizes(folder, about["quantization"], request)
    request.how.check_packages(making=False)
    if source is None:
        inputs, truth, errors = golden.read_golden(folder / golden.FOLDER)
        with progress(f"Running in {request.how.title}"):
            checks = prove(folder, request, inputs, truth, *errors, stored)
        against = "the golden outputs, which PyTorch computed in float64"
        return Proof(checks, against, stored, _prove_page(folder, request))
    from ....keras_models.errors import MobileClipError

    variant = get_variant(about["model"]["variant"])
    try:
        conversion = {"source": about["model"]["source"], "computes_like": about["model"]["computes_like"]}
        size = conversion["source"].get("image_size")
    except (KeyError, AttributeError) as error:
        raise MobileClipError(f"{folder / BUNDLE_FILE} does not say what the bundle comes from.") from error
    found = Source(folder, folder.name, variant, conversion, request.towers, size)
    inputs = proof_inputs(variant, size, request)
    with progress("Computing with PyTorch"):
        exact = compute(found, request, source, run_job)
    with progress(f"Running in {request.how.title}"):
        checks, _ = judge(folder, found, request, inputs, exact, source, run_job, stored)
    return Proof(checks, "PyTorch in float64", stored, _prove_page(folder, request))


def stored_as(about: dict[str, Any]) -> Stored:
    """How a bundle's weights are kept, and the bound that it states."""
    certificate = about.get("quantization")
    if certificate is None:
        return Stored(dict.fromkeys(about["request"]["towers"], about["request"]["recipe"]))
    return Stored(certificate["stored"], certificate["bound"])


def _prove_page(folder: Path, request: Request) -> str:
    """Lets a page compare itself with the golden outputs. Returns why that is not possible here, or ""."""
    from ..web.browser import why_no_browser
    from ..web.proving import check_page

    if request.runtime != "web":
        return ""
    why = why_no_browser()
    if why is None:
        check_page(folder)
        return ""
    return f"Not proven in a browser here: {why}."


def _check_files(folder: Path, recorded: dict[str, str]) -> None:
    """Raises DeployError unless a bundle holds exactly the files that its description names, as they were."""
    for name in recorded:
        if (folder / name).exists():
            check_regular(folder / name, folder)
    found = file_hashes(folder, (BUNDLE_FILE, PROOF_FILE))
    proof = read_json(folder / PROOF_FILE, folder=folder) if (folder / PROOF_FILE).exists() else {}
    noted = proof.get("files_sha256", {}).get(BUNDLE_FILE) if isinstance(proof, dict) else None
    if noted != file_sha256(folder / BUNDLE_FILE):
        raise DeployError(f"{folder} is not as it was exported: {PROOF_FILE} is not about this {BUNDLE_FILE}.")
    wrong = [f"{name} is missing" for name in recorded if name not in found]
    wrong += [f"{name} was added" for name in found if name not in recorded]
    wrong += [f"{name} has changed" for name in found if recorded.get(name, found[name]) != found[name]]
    if wrong:
        raise DeployError(f"{folder} is not as it was exported: {'; '.join(wrong[:20])}.")


def _check_sizes(folder: Path, certificate: dict[str, Any], request: Request) -> None:
    """Raises DeployError unless the towers take as many bytes as the certificate of their rounded weights states."""
    stated = {trial["recipe"]: trial["towers"] for trial in certificate["tried"]}
    for tower in request.towers:
        trial = stated.get(certificate["stored"].get(tower), {})
        said, found = trial.get(tower, {}).get("bytes"), tower_bytes(folder, tower)
        if said != found:
            raise DeployError(
                f"{folder} is not as it was exported: its {tower} tower takes {found} bytes, and {BUNDLE_FILE} states "
                f"{'none' if said is None else said}."
            )
