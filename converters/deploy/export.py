"""Exporting a converted folder as a bundle, which appears only once its files are proven."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...keras_models.architectures import TEXT_TOWERS
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.store.file_names import BUNDLE_FILE
from ...keras_models.store.writing.atomic import written_whole
from ...keras_models.store.writing.own_files import sha256 as file_sha256
from ...keras_models.store.writing.targets import check_target
from ...verify.compare import Features, torch_errors
from ...verify.torch_models.requirements import require_packages
from ..conversion.progress import Progress, silent
from ..hub.model_card import LICENSE_FILE
from ..hub.terms import terms_of
from .contents import golden
from .contents.bundle import PROOF_FILE, describe, file_hashes, request_to_json, title_of, write_json
from .contents.readme import README_FILE, render_readme
from .contents.tokenizer_files import FOLDER as TOKENIZER_FOLDER
from .contents.tokenizer_files import write_tokenizer
from .processes import RunJob, in_own_process
from .proofs.computing import compute, computing
from .proofs.inputs import ProofInputs, proof_inputs
from .proofs.proof import Check, Stored, prove
from .proofs.reference import Truth
from .quantize.calibration import Calibration, find_calibration, read_inputs
from .quantize.certificate import PICTURE_FILE, Rounded, draw
from .quantize.choosing import round_and_choose
from .request import DeployError, Request, default_out, make_request
from .sources import Source, find_source
from .web.browser import why_no_browser
from .web.page_files import describe_page, write_page, write_pictures, write_tables
from .web.proving import check_page
from .web.runtime_files import runtime_files


@dataclass(frozen=True)
class Exported:
    """What `export` did."""

    folder: Path
    request: Request
    about: dict[str, Any]
    checks: list[Check]


def export(
    name: str,
    to: str,
    *,
    out: Path | None = None,
    force: bool = False,
    source: Path | None = None,
    runtime: Path | None = None,
    progress: Progress = silent,
    run_job: RunJob = in_own_process,
    **options: Any,
) -> Exported:
    """Writes a bundle.

    Args:
        name: a converted folder that is verified, a Hub repository of one, or a variant.
        to: a key of runtimes.RUNTIMES.
        out: the bundle's folder; None for a name made of the folder's and the runtime's.
        force: whether to replace a bundle that is there.
        source: the checkpoint, for a folder without its train form.
        runtime: a folder with the files of a page's runtime; None to have them fetched by npm.
        progress: shows steps.
        run_job: runs the jobs.
        options: of `make_request`.

    Raises:
        MobileClipError: in one sentence. Nothing was left behind.
    """
    make_request(to, ("image", "text"), **options)  # what needs no folder to be refused
    found = find_source(name, source)
    request = make_request(to, found.held, **options)
    request.how.check_packages(making=True)
    calibration = find_calibration(options.get("calibrate", ()))
    require_packages()
    files = None
    if request.runtime == "web":
        with progress("Looking for the page's runtime"):
            files = runtime_files(runtime)
    elif runtime is not None:
        raise DeployError("--runtime is about pages: give it with --to web.")
    out = out or default_out(found.name.removesuffix("-keras"), to)
    check_target(out, force, BUNDLE_FILE)
    with written_whole(out, force, BUNDLE_FILE) as staged:
        about, checks = _write(found, request, staged, source, files, calibration, progress, run_job)
    return Exported(out, request, about, checks)


def _write(
    found: Source,
    request: Request,
    staged: Path,
    source: Path | None,
    runtime: Path | None,
    calibration: Calibration,
    progress: Progress,
    run_job: RunJob,
) -> tuple[dict[str, Any], list[Check]]:
    tokenizer = None
    with ThreadPoolExecutor(1) as aside:  # this process waits for others here
        given = aside.submit(proof_inputs, found.variant, found.image_size, request)
        if "text" in request.towers:
            tokens = Tokenizer(TEXT_TOWERS[found.variant.text_tower].context_length)
            tokenizer = aside.submit(write_tokenizer, staged / TOKENIZER_FOLDER, tokens)
        made, rounded, truth = _convert(found, request, staged, source, calibration, given.result, progress, run_job)
    inputs = given.result()
    stored = Stored(dict.fromkeys(request.towers, request.recipe) if rounded is None else rounded.chosen)
    if runtime is not None:
        write_page(staged, runtime)
    with progress("Comparing with PyTorch"):
        checks, truth = judge(staged, found, request, inputs, truth, source, run_job, stored)
    check_passed(checks)
    certificate = None
    if rounded is not None:
        certificate = rounded.certificate(request, checks)
        checks = [replace(check, bound=certificate["bound"]) for check in checks]
        draw(rounded.trials, rounded.chosen, staged / PICTURE_FILE)
    write_golden(staged / golden.FOLDER, inputs, truth, made)
    difference = None if tokenizer is None else tokenizer.result().to_json()
    preprocessor = ImagePreprocessor.from_pretrained(found.folder) if "image" in request.towers else None
    about = describe(request, found.variant, found.conversion, made, preprocessor, difference, certificate)
    (staged / LICENSE_FILE).write_text(terms_of(found.variant).text, encoding="utf-8")
    (staged / README_FILE).write_text(render_readme(about, checks), encoding="utf-8")
    if runtime is not None:
        write_tables(staged)
        write_pictures(staged, found.variant)
        about["web"] = describe_page(staged, found.variant, request.recipe, why_no_browser())
    about["files"] = file_hashes(staged, (BUNDLE_FILE, PROOF_FILE))
    write_json(staged / BUNDLE_FILE, about)
    hashes = {**about["files"], BUNDLE_FILE: file_sha256(staged / BUNDLE_FILE)}
    record = proof_record(request, checks, inputs, dict(sorted(hashes.items())))
    if runtime is not None and why_no_browser() is None:
        with progress("Comparing the page with PyTorch"):
            record["page"] = check_page(staged)
    write_json(staged / PROOF_FILE, record)
    return about, checks


def _convert(
    found: Source,
    request: Request,
    staged: Path,
    source: Path | None,
    calibration: Calibration,
    fixed: Callable[[], ProofInputs],
    progress: Progress,
    run_job: RunJob,
) -> tuple[dict[str, Any], Rounded | None, Truth]:
    """Writes the towers' files, while PyTorch computes: each has one thread's work to do most of the time.

    Returns:
        What bundle.json says of the files, what rounding gave, and what PyTorch computed.
    """
    spec = {"folder": str(found.folder), "request": request_to_json(request), "variant": found.variant.name}

    truths: list[Truth] = []

    def convert(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
        job = {**spec, "candidates": candidates, "about": _metadata(found, request)}
        with computing(found, request, source, run_job) as (run_beside, truth):
            made = run_beside("convert", job, "tensorflow")["candidates"]
            truths.append(truth())  # before anything is timed
        return made

    def round_weights(rows: Path, out: Path) -> dict[str, Any]:
        return run_job("round", {**spec, "rows": str(rows), "out": str(out)}, "tensorflow")

    if request.recipe == "float32":
        with progress(f"Converting to {request.how.title}, and computing with PyTorch"):
            alone = {"recipe": "float32", "out": str(staged), "weights": None, "floats": None}
            return convert([alone])[0], None, truths[0]
    inputs = read_inputs(calibration, found.folder, request, fixed())
    own = calibration.to_json(inputs)
    made, rounded = round_and_choose(request, inputs, staged, convert, round_weights, own, progress)
    return made, rounded, truths[0]


def _metadata(found: Source, request: Request) -> dict[str, str]:
    """What each file says of itself."""
    terms, title = terms_of(found.variant), title_of(found.variant, found.conversion)
    return {
        "name": title,
        "description": f"A tower of {title}, exported by mobileclip-keras; bundle.json says more.",
        "variant": found.variant.name,
        "license": f"{terms.license}. {terms.notice}",
        "source_sha256": str(found.conversion["source"].get("sha256")),
    }


def judge(
    folder: Path,
    found: Source,
    request: Request,
    inputs: ProofInputs,
    truth: Truth,
    source: Path | None,
    run_job: RunJob,
    stored: Stored | None = None,
) -> tuple[list[Check], Truth]:
    """The checks of a bundle's files. Where one failed by no more than luck explains, PyTorch runs more often."""
    checks = prove(folder, request, inputs, truth.exact, *torch_errors(truth.runs, truth.exact), stored)
    failed = [check for check in checks if check.judged and not check.passed]
    if failed and all(check.rounding.may_be_luck for check in failed):
        more = compute(found, request, source, run_job, more=True)
        truth = replace(truth, runs=[*truth.runs, *more.runs])
        checks = prove(folder, request, inputs, truth.exact, *torch_errors(truth.runs, truth.exact), stored)
    return checks, truth


def check_passed(checks: list[Check]) -> None:
    """Raises DeployError where a check that is judged failed."""
    for check in checks:
        if check.judged and not check.passed:
            rounding = check.rounding
            if check.recipe not in ("float32", "fp16"):
                raise DeployError(
                    f"The exported files give features that are no numbers, or not of length 1 (batch {check.batch}): "
                    "give another recipe."
                )
            raise DeployError(
                f"The exported files do not compute what PyTorch computes (batch {check.batch}): the root mean "
                f"square of the error is {rounding.rms_ratio:.3g} times PyTorch's own and its maximum "
                f"{rounding.max_ratio:.3g} times, and {rounding.top1_differences} best matches differ."
            )


def write_golden(folder: Path, inputs: ProofInputs, truth: Truth, made: dict[str, Any]) -> None:
    """Writes the golden inputs, with PyTorch's features and errors of them."""
    rows = len(inputs.fixed.images), len(inputs.fixed.tokens)
    some = inputs.golden()
    image = slice(rows[0] - len(some.fixed.images), rows[0])
    text = slice(inputs.fixed.texts.index(some.fixed.texts[0]), None)

    def cut(features: Features) -> Features:
        texts = None if features.text is None else features.text[text][: len(some.fixed.texts)]
        return Features(None if features.image is None else features.image[image], texts)

    exact = cut(truth.exact)
    errors = torch_errors([cut(run) for run in truth.runs], exact)
    golden.write_golden(folder, some, exact, errors, made["logit_scale"], made["logit_bias"])


def proof_record(request: Request, checks: list[Check], inputs: ProofInputs, hashes: dict[str, str]) -> dict[str, Any]:
    """The content of verification.json."""
    return {
        "passed": all(check.passed for check in checks if check.judged),
        "runtime": request.how.title,
        "versions": request.how.versions(),
        "compared_with": "PyTorch in float64, with the same weights",
        "inputs": {"images": list(inputs.fixed.image_names), "texts": list(inputs.fixed.texts)},
        "checks": [check.to_json() for check in checks],
        "files_sha256": hashes,
    }
