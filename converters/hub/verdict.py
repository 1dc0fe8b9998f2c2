"""Whether a recorded verification passed: judged anew from its figures, by the criteria of this version."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields as fields_of
from typing import Any

from ...keras_models.shown import shown_name
from ...verify.compare import ExactCheck, RoundingCheck
from ...verify.criteria import LARGEST_TORCH_ERROR
from ...verify.running.programs import COMPILE_EACH_FORM, COMPILED, DIRECT
from .record_fields import VERIFICATION_FILE

AGAIN = "verify the folder again"
NEEDED = ("passed", "variant", "backend", "inputs", "float64", "float32", "sample", "files_sha256")
_ROUNDING = ("rms", "maximum", "torch_rms", "torch_maximum", "length_error")
_SLACK = 1e-6  # relative, for figures that follow from others


def find_gaps(record: dict[str, Any]) -> list[str]:
    """What a record of a verification does not say, in words. Older versions said less."""
    if "why" in record:
        return [f"it was {shown_name(record['why'])}"]
    lacks = [key for key in NEEDED if record.get(key) is None]
    for dtype, needed in (
        ("float64", ("form", "passed")),
        ("float32", ("form", "program", *_ROUNDING, "rms_ratio", "max_ratio", "top1_differences", "passed")),
    ):
        checks = record.get(dtype) or ()
        lacks += [f"{dtype}.{key}" for key in needed if any(key not in check for check in checks)]
    sample = record.get("sample") or {}
    lacks += [f"sample.{key}" for key in ("images", "texts", "logits") if sample and key not in sample]
    if not lacks:
        return []
    return [f"its {VERIFICATION_FILE} does not say {', '.join(lacks)}, as an older version's does not: {AGAIN}"]


def find_faults(record: dict[str, Any], configs: dict[str, dict[str, Any]]) -> list[str]:
    """Why a recorded verification does not stand for the forms of a folder, in words; empty where it does.

    Args:
        record: complete, as `find_gaps` says.
        configs: what each form's config.json says of the model, the folder's default form first.
    """
    exact = [(check, f"the {check['form']} form in float64") for check in record["float64"]]
    rounding = [
        (check, f"the {check['form']} form in float32 by {shown_name(check['program'])}") for check in record["float32"]
    ]
    found = [*_not_compared(record, configs), *_twice([name for _, name in (*exact, *rounding)])]
    passed = True
    for check, name in exact:
        config = configs.get(check["form"])
        wrong = list(_wrong_exact(check, config)) if config else [f"the folder has no {check['form']} form"]
        passed &= not wrong
        found += _judged(check, name, wrong)
    for check, name in rounding:
        wrong = list(_wrong_rounding(check))
        passed &= not wrong
        found += _judged(check, name, wrong)
    if passed and not found and not record["passed"]:
        found.append(f"{VERIFICATION_FILE} says that the verification did not pass, where every check did: {AGAIN}")
    if record["passed"] and not passed:
        found.append(f"{VERIFICATION_FILE} says that the verification passed, and it did not")
    return found


def _judged(check: dict[str, Any], name: str, wrong: list[str]) -> Iterator[str]:
    """What is to be said of one check."""
    if wrong:
        yield f"{name} failed its comparison with PyTorch: {', '.join(wrong)}"
    elif not check["passed"]:
        yield f"{name} is said to have failed its comparison with PyTorch, and its figures pass: {AGAIN}"


def _not_compared(record: dict[str, Any], configs: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The checks that a folder of these forms needs and a record lacks."""
    exact = {check["form"] for check in record["float64"]}
    rounding = {(check["form"], check["program"]) for check in record["float32"]}
    backend, first = record["backend"], next(iter(configs))
    for form in configs:
        if form not in exact:
            yield f"the {form} form was not compared with PyTorch in float64"
        if (form, DIRECT) not in rounding:
            yield f"the {form} form was not compared with PyTorch in float32 by {DIRECT}"
        needed = form == first or backend in COMPILE_EACH_FORM
        if needed and not any((form, program) in rounding for program in COMPILED[backend]):
            compiler = ", which needs a C++ compiler" if backend == "torch" else ""
            either = " or ".join(COMPILED[backend])
            yield f"the {form} form was not compared with PyTorch in float32 by {either}{compiler}"


def _twice(names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{name} is in {VERIFICATION_FILE} {count} times"


def _wrong_exact(check: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Why a check in float64 does not pass."""
    image, text = (config[f"{tower}_encoder"] is not None for tower in ("image", "text"))
    needed = {"image": image, "text": text, "logit_scale": image and text, "logit_bias": bool(config.get("logit_bias"))}
    figures = {key: check.get(key) for key in needed}
    # A number that was not finite is null.
    missing = [key for key, is_needed in needed.items() if is_needed and figures[key] is None]
    if missing:
        yield f"no number for {' and '.join(missing)}"
    if not ExactCheck(check["form"], **figures).passed:
        yield "the difference is too large"


def _wrong_rounding(check: dict[str, Any]) -> Iterator[str]:
    """Why a check in float32 does not pass, or its figures cannot be those of one."""
    missing = [key for key in _ROUNDING if check[key] is None]
    if missing:
        yield f"no number for {' and '.join(missing)}"
        return
    made = RoundingCheck(**{field.name: check[field.name] for field in fields_of(RoundingCheck)})
    if not (made.torch_rms > 0 and made.torch_maximum > 0):
        yield "PyTorch's own error is 0, which it never is"
        return
    if made.torch_maximum > LARGEST_TORCH_ERROR:
        yield f"PyTorch's own error of {made.torch_maximum:.2g} is too large to compare with"
    if made.rms > made.maximum * (1 + _SLACK) or made.torch_rms > made.torch_maximum * (1 + _SLACK):
        yield "its mean errors are larger than its largest"
    if not (_is_near(check["rms_ratio"], made.rms_ratio) and _is_near(check["max_ratio"], made.max_ratio)):
        yield "its ratios are not those of its errors"
    if not made.passed:
        yield "the error is too large"


def _is_near(noted: float | None, ratio: float) -> bool:
    return noted is not None and math.isclose(noted, ratio, rel_tol=_SLACK, abs_tol=1e-300)
