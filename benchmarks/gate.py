"""Whether the verification refuses what is right: seeds x kinds of weights x towers, on the backend in use.

    KERAS_BACKEND=jax python benchmarks/gate.py --seeds 3 --json benchmarks/results/gate.json
    KERAS_BACKEND=jax python benchmarks/gate.py s0 s2 --seeds 2 --json benchmarks/results/gate.json

Without variants, the small towers of the tests are converted, which have every part of the real ones. Each conversion
is right, so each refusal is a mistake. Results are added to the JSON file. What is wrong and must be refused stands in
tests/test_mutations.py.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import typer
from arguments import JSON
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mobileclip_keras.converters.checkpoints.checkpoint import Checkpoint
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, known_formats
from mobileclip_keras.converters.conversion.build import build_model, has_projection_bias
from mobileclip_keras.converters.conversion.mapping import load_into
from mobileclip_keras.converters.conversion.progress import silent
from mobileclip_keras.converters.conversion.verifying import verify_against
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import Variant, get_variant
from mobileclip_keras.keras_models.towers.folding import reparameterize
from mobileclip_keras.verify.compare import Features, check_rounding
from mobileclip_keras.verify.criteria import MAX_RATIO, RMS_RATIO
from mobileclip_keras.verify.data.inputs import Inputs, fixed_inputs
from mobileclip_keras.verify.data.weight_kinds import KINDS, draw
from mobileclip_keras.verify.torch_models import TorchReference, build_reference
from mobileclip_keras.verify.torch_models.requirements import keep_triton_out
from mobileclip_keras.verify.torch_models.runs import MORE_RUNS, RUNS, run
from mobileclip_keras.verify.verification import Verification

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the small towers of the tests

FORMS = ("inference", "train")

Run = tuple[dict[str, Any], Callable[[], Verification], Callable[[Verification], tuple[float, float]] | None]
"""What is converted, its verification, and PyTorch's largest errors over every run that there may be, where that is
quick."""

RATIOS = {
    "rms ratio (limit 1.5): 99 %, largest": "rms",
    "by every run": "rms_by_all",
    "maximum (limit 2): 99 %, largest": "maximum",
    "by every run ": "maximum_by_all",
}
"""Columns of the table, and what they are called in the JSON file."""


NEAR = 0.8
"""Of a limit. The figures by every run, of which there are 63, are computed beyond it alone: they are smaller."""


def small(seeds: range, kinds: list[str]) -> Iterator[Run]:
    """A description of each run of small towers, and the run."""
    keep_triton_out()
    from tests import small_verified
    from tests.small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS

    IMAGE_TOWERS.update(KNOWN_IMAGE_TOWERS)
    TEXT_TOWERS.update(KNOWN_TEXT_TOWERS)

    def verify(pair: small_verified.Pair, kind: str, seed: int) -> Verification:
        model = small_verified.build(pair, small_verified.rows_of(pair), kind, seed)
        return small_verified.verdict(pair, model, FORMS, kind, seed)

    def whole(pair: small_verified.Pair, kind: str, seed: int, verification: Verification) -> tuple[float, float]:
        reference, inputs = small_verified.reference(pair, kind, seed), small_verified.inputs(pair[0])
        return largest_errors(reference, inputs, verification.features)

    for seed in seeds:
        for kind in kinds:
            for pair in small_verified.PAIRS:
                what = {"towers": f"{pair[0]}, {pair[1]}", "kind": kind, "seed": seed}
                yield what, partial(verify, pair, kind, seed), partial(whole, pair, kind, seed)


def largest_errors(reference: TorchReference, inputs: Inputs, truth: Features) -> tuple[float, float]:
    """Root mean square and maximum of PyTorch's errors, each the largest over all runs that are ever made.

    A verification stops at the first run that explains an error, just below the limit. By these, one sees how far from
    it the error is.
    """
    single = reference.to("float32")
    runs = [run(single, way, inputs) for way in (*RUNS, *MORE_RUNS)]
    checks = [check_rounding("", "", features, [features], truth) for features in runs]
    return max(check.torch_rms for check in checks), max(check.torch_maximum for check in checks)


def real(variants: list[str], seeds: range, kinds: list[str]) -> Iterator[Run]:
    """The same for published variants, in the layout that they are published in."""
    for name in variants:
        variant = get_variant(name)
        (published,) = (
            known
            for known in known_formats()
            if (known.layout, known.form) == (variant.published.layout, "train") and variant in known.variants
        )
        for seed in seeds:
            for kind in kinds:
                what = {"towers": variant.name, "kind": kind, "seed": seed}
                yield what, partial(run_real, variant, published, kind, seed), None


def run_real(variant: Variant, published: CheckpointFormat, kind: str, seed: int) -> Verification:
    """Converts and verifies a checkpoint of a variant, in memory."""
    text_tower = variant.text_tower if published.text_tower else None

    def reference(state: Any) -> Any:
        return build_reference(published.image_tower, text_tower, state, published.layout, dtype="float32")

    arrays = draw(kind, published.shapes.items(), seed, reference, fixed_inputs(variant))
    shapes = {name: array.shape for name, array in arrays.items()}
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    checkpoint = Checkpoint(Path("drawn.safetensors"), shapes, dtypes, [], arrays.__getitem__)
    model = build_model(variant, published, has_projection_bias(variant, published, checkpoint))
    load_into(model, checkpoint, published.rows)

    def make_model(form: str, dtype: str) -> MobileClipModel:
        same = (form, dtype) == (model.form, model.dtype)
        return model if same else reparameterize(model, form, dtype)

    return verify_against(checkpoint, published, variant, make_model, FORMS, silent)


def describe(verification: Verification, whole: tuple[float, float] | None) -> dict[str, Any]:
    """What is kept of a run; `whole` as PyTorch's `largest_errors`."""
    return {
        "passed": verification.passed,
        "reason": verification.reason,
        "torch_runs": verification.torch_runs,
        "float64": max(x for c in verification.exact for x in (c.image, c.text) if x is not None),
        "ratios": [
            {
                "form": check.form,
                "program": check.program,
                "rms": round(check.rms_ratio, 3),
                "maximum": round(check.max_ratio, 3),
                "rms_by_all": whole and round(check.rms / max(whole[0], check.torch_rms), 3),
                "maximum_by_all": whole and round(check.maximum / max(whole[1], check.torch_maximum), 3),
                "top1": check.top1_differences,
            }
            for check in verification.rounding
        ],
    }


def is_near(verification: Verification) -> bool:
    """Whether an error is near its limit, or was explained by more runs."""
    ratios = [max(check.rms_ratio / RMS_RATIO, check.max_ratio / MAX_RATIO) for check in verification.rounding]
    return max(ratios) > NEAR or verification.torch_runs > 1 + len(RUNS)


def leave_out_what_is_slow() -> None:
    """What no conversion is refused by, and what PyTorch computes by the same kernels as directly."""
    kernels.half_precisions = tuple
    if keras.backend.backend() == "torch":
        kernels.compiled = lambda model, thorough: None


def table(results: list[dict[str, Any]]) -> Table:
    """Refused and run, by kind and backend."""
    backends = sorted({result["backend"] for result in results})
    shown = Table("weights", *(f"{backend}: refused / run" for backend in backends), *RATIOS)
    for kind in KINDS:
        of_kind = [result for result in results if result["kind"] == kind]
        cells = []
        for backend in backends:
            runs = [result for result in of_kind if result["backend"] == backend]
            cells.append(f"{sum(not run['passed'] for run in runs)} / {len(runs)}")
        shown.add_row(kind, *cells, *(largest(of_kind, key) for key in RATIOS.values()))
    return shown


def largest(results: list[dict[str, Any]], key: str) -> str:
    """The 99th percentile and the largest of a ratio."""
    found = [ratio[key] for result in results for ratio in result["ratios"] if ratio.get(key) is not None]
    return f"{np.quantile(found, 0.99):.2f} {max(found):.2f}" if found else ""


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Published variants; none for the small towers.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many checkpoints of each kind.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    kind: Annotated[list[str] | None, typer.Option(help="Kinds of weights, else all.")] = None,
    quick: Annotated[bool, typer.Option(help="Without half precision, and on PyTorch without torch.compile.")] = False,
    out: Annotated[Path | None, JSON] = None,
) -> None:
    """Runs, and prints what was refused."""
    if quick:
        leave_out_what_is_slow()
    kinds = kind or list(KINDS)
    if unknown := [name for name in kinds if name not in KINDS]:
        raise typer.BadParameter(f"There is no kind {unknown[0]!r}. There are {', '.join(KINDS)}.")
    chosen = range(first_seed, first_seed + seeds)
    runs = list(real(variants, chosen, kinds) if variants else small(chosen, kinds))
    kept = {json.dumps(r["key"]): r for r in (json.loads(out.read_text()) if out and out.exists() else [])}
    console = Console(stderr=True)
    for what, verify, whole in track(runs, "Verifying", console=console):
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            verification = verify()
        key = [what["towers"], what["kind"], what["seed"], keras.backend.backend()]
        seconds = round(time.perf_counter() - start, 1)
        kept[json.dumps(key)] = {
            "key": key,
            **what,
            "backend": key[-1],
            "device": verification.device.get("name"),
            "seconds": seconds,
            "quick": quick,
            **describe(verification, whole(verification) if whole and is_near(verification) else None),
        }
        if out:
            out.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    Console().print(table(list(kept.values())))
    refused = [result for result in kept.values() if not result["passed"]]
    for result in refused:
        Console().print(f"refused: {', '.join(map(str, result['key']))}: {result['reason']}")
    raise typer.Exit(1 if refused else 0)


if __name__ == "__main__":
    typer.run(main)
