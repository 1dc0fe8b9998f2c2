"""What a verification runs, in what precision, and what it says: on small towers, on every backend."""

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.conversion.convert import VerificationError, convert
from mobileclip_keras.converters.conversion.progress import silent
from mobileclip_keras.converters.conversion.verifying import verify_folder
from mobileclip_keras.converters.hub.verdict import find_faults, find_gaps
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import processor
from mobileclip_keras.keras_models.models.features import FeatureModel
from mobileclip_keras.verify import precision
from mobileclip_keras.verify.compare import ExactCheck, Features, RoundingCheck, measure_cost
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.verify.precision import FLOAT32_BITS, full_float32, kept_bits, switches
from mobileclip_keras.verify.reason import find_reason
from mobileclip_keras.verify.report import render
from mobileclip_keras.verify.running.programs import COMPILE_EACH_FORM, DIRECT
from mobileclip_keras.verify.running.programs import COMPILED as COMPILED_NAMES
from mobileclip_keras.verify.verification import Verification

from .converter_support import S0, arrays, write
from .small import small_model
from .small_verified import MCI, VIT, Pair, build, rows_of, verdict
from .support import nightly_on

pytestmark = [pytest.mark.usefixtures("small_towers", "quickly_verified"), pytest.mark.backend, pytest.mark.torch]

BACKEND = keras.backend.backend()
COMPILED = {"tensorflow": "predict", "jax": "predict", "torch": "graph"}[BACKEND]


SAMPLED, SAMPLED_TEXTS = (0, 1, 14, 15), (0, 1, 22, 23)


def verified(pair: Pair, forms: tuple[str, ...] = ("train",)) -> Verification:
    return verdict(pair, build(pair, rows_of(pair)), forms)


def outcome(verification: Verification) -> dict[str, bool]:
    """Whether each program passed."""
    return {check.program: check.passed for check in verification.rounding}


# --- What runs ---


@pytest.mark.compiles
def test_what_people_run_is_verified_on_all_inputs() -> None:
    verification = verified(VIT, ("inference", "train"))
    assert verification.passed and verification.reason is None
    checks = {(check.form, check.program) for check in verification.rounding}
    expected = {(form, program) for form in ("inference", "train") for program in (DIRECT, COMPILED)}
    if BACKEND == "torch":  # which takes minutes to compile, so only the form that people run
        expected.remove(("train", COMPILED))
    assert checks == expected
    assert COMPILED in COMPILED_NAMES[BACKEND] and (BACKEND in COMPILE_EACH_FORM) == kernels.COMPILES_IN_SECONDS
    assert verification.features.image.shape[0] == 16 and verification.features.text.shape[0] == 24
    record = verification.to_json()
    configs = {form: {"image_encoder": {}, "text_encoder": {}} for form in ("inference", "train")}
    assert find_gaps({**record, "files_sha256": {}}) == [] and find_faults(record, configs) == []
    assert np.array_equal(record["sample"]["logits"], verification.logits["torch"][np.ix_(SAMPLED, SAMPLED_TEXTS)])
    assert record["sample"]["images"] == ["0", "1", "14", "15"] and record["sample"]["texts"] == ["0", "1", "22", "23"]
    assert record["torch_float32_runs"] >= 3
    assert record["device"]["name"] and record["device"]["processor"] == processor.processor_name()
    assert record["device"]["switches_verified"].keys() == record["device"]["switches_found"].keys()


def is_compiling(array: Any) -> bool:
    """Whether a kernel runs within a program that the backend compiles."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    if BACKEND == "jax":
        import jax

        return isinstance(array, jax.core.Tracer)
    import torch

    return torch.compiler.is_compiling()


KERNELS = {
    "attention": MCI,
    "attention_at": VIT,
    "at": MCI,
    "batch_norm": MCI,
    "convolve": MCI,
    "dense": VIT,
    "dense_of_vectors": VIT,
    "embed": MCI,
    "gelu": VIT,
    "layer_norm": VIT,
    "mean_over_positions": MCI,
    "unit_length": VIT,
}
"""Kernels of inference, each with towers that use it."""


COMPILED_PER_COMMIT = {
    "tensorflow": ("attention", "convolve", "dense", "embed", "gelu"),
    "jax": ("attention", "convolve"),
    "torch": ("convolve", "dense"),
}[BACKEND]
DIRECT_PER_COMMIT = {"tensorflow": COMPILED_PER_COMMIT, "jax": ("dense",), "torch": tuple(KERNELS)}[BACKEND]
"""The others are left to `make nightly`, which runs all of them on each backend."""


def places() -> Iterator[Any]:
    """Each kernel, broken in what is called directly and in what is compiled."""
    for name in KERNELS:
        for where, often in (("direct", DIRECT_PER_COMMIT), ("compiled", COMPILED_PER_COMMIT)):
            both = where == "compiled" or (name == "convolve" and kernels.COMPILES_IN_SECONDS)
            marks = [pytest.mark.compiles] if both else []
            if name not in often:
                marks.append(pytest.mark.nightly)
            yield pytest.param(name, where, id=f"{name} {where}", marks=marks)


@pytest.mark.compiles
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow warns, of functions compiled often")
def test_that_many_models_are_compiled_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model(None, "small_transformer")
    for _ in range(6):
        _, program = kernels.compiled(FeatureModel(model), False)
        program({"text": synthetic.tokens(1, seed=0)})
    assert "retracing" not in caplog.text


@pytest.mark.parametrize(("name", "where"), list(places()))
def test_a_kernel_broken_in_one_program_alone_is_caught(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The result is a thousandth too large, in what is compiled or in what is called directly."""
    if KERNELS[name] is MCI:  # which test_models.py calls, too; the other pair is verified as people run it above
        request.getfixturevalue("operations_quickly_compiled")
    right = getattr(kernels, name)

    def wrong(array: Any, *others: Any, **options: Any) -> Any:
        result = right(array, *others, **options)
        broken = is_compiling(array) == (where == "compiled") and "float64" not in str(result.dtype)
        return result * 1.001 + 0.001 if broken else result

    monkeypatch.setattr(kernels, name, wrong)
    verification = verified(KERNELS[name])
    assert all(check.passed for check in verification.exact), "float64 was not broken"
    ran = outcome(verification)
    assert ran.pop(DIRECT) == (where != "direct")
    assert COMPILED in ran or where == "direct"
    assert ran in ({}, {COMPILED: where != "compiled"})
    assert verification.reason is not None
    if ran:
        assert f"differs by {COMPILED if where == 'compiled' else DIRECT}" in verification.reason


@pytest.mark.skipif(BACKEND != "torch", reason="the others run one input as they run many")
@pytest.mark.parametrize("name", ["attention_at", "only_end"])
def test_a_kernel_broken_for_one_input_alone_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(kernels, name)

    def wrong(array: Any, *others: Any, **options: Any) -> Any:
        result = right(array, *others, **options)
        is_one = array.shape[0] == 1 and "float64" not in str(array.dtype) and result is not None
        return (result - 1 if name == "only_end" else result * 1.001) if is_one else result

    monkeypatch.setattr(kernels, name, wrong)
    verification = verified(MCI)
    assert all(check.passed for check in verification.exact), "float64 was not broken"
    assert not outcome(verification)[DIRECT]


@pytest.mark.skipif(BACKEND != "torch", reason="the others keep nothing that nobody asks for")
def test_float64_keeps_nothing_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.dense
    kept: set[tuple[str, bool]] = set()

    def watched(*arguments: Any, **options: Any) -> Any:
        result = right(*arguments, **options)
        kept.add((str(result.dtype), result.requires_grad))
        return result

    monkeypatch.setattr(kernels, "dense", watched)
    assert verified(VIT).passed
    assert ("torch.float64", False) in kept and ("torch.float64", True) not in kept


def test_the_logit_scale_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.exp
    monkeypatch.setattr(kernels, "exp", lambda array: right(array) * 1.001)
    verification = verified(VIT)
    assert not verification.exact[0].passed and verification.exact[0].logit_scale == pytest.approx(0.001)


# --- In what precision ---


def to_tf32(array: Any) -> Any:
    """Float32 rounded to 10 bits behind the first, by Dekker's splitting; other dtypes stay."""
    if "float32" not in str(array.dtype):
        return array
    much = array * float(2**13 + 1)
    return much - (much - array)


PRODUCTS = ("convolve", "dense", "dense_of_vectors")


def compute_in_tf32(patch: pytest.MonkeyPatch, names: tuple[str, ...] = PRODUCTS) -> None:
    def rounded(right: Callable) -> Callable:
        return lambda inputs, kernel, *others, **options: right(
            to_tf32(inputs), to_tf32(keras.ops.convert_to_tensor(kernel)), *others, **options
        )

    for name in names:
        patch.setattr(kernels, name, rounded(getattr(kernels, name)))


@pytest.mark.parametrize("pair", [pytest.param(MCI, marks=nightly_on("jax")), VIT], ids=str)
def test_products_rounded_to_tf32_are_refused_with_the_reason(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_in_tf32(monkeypatch)
    verification = verified(pair)
    assert all(check.passed for check in verification.exact)
    assert not any(check.passed for check in verification.rounding)
    assert verification.kept_bits == 10
    assert "TF32" in verification.reason and "10 bits" in verification.reason
    assert verification.reason in to_text(verification) and verification.to_json()["reason"] == verification.reason


def to_text(verification: Verification) -> str:
    from rich.console import Console

    console = Console(width=10_000, record=True, file=io.StringIO())
    console.print(render(verification))
    return console.export_text()


def test_full_float32_keeps_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_bits() == FLOAT32_BITS
    for name in ("convolve", "dense"):
        with pytest.MonkeyPatch.context() as patch:
            compute_in_tf32(patch, (name,))
            assert kept_bits() == 10


def lower_precision() -> Any:
    """A context in which the backend is allowed to round float32, as a user may have set it."""
    if BACKEND == "tensorflow":
        return nullcontext()  # allowed by default
    if BACKEND == "jax":
        import jax

        return jax.default_matmul_precision("bfloat16")
    return nullcontext()


def test_lower_precision_is_off_within_and_as_it_was_afterwards() -> None:
    with lower_precision():
        before = switches()
        with pytest.raises(KeyError), full_float32():
            within = switches()
            raise KeyError
        assert switches() == before
    if BACKEND == "tensorflow":
        assert within["tf.config.experimental.tensor_float_32_execution_enabled()"] == "False"
        assert before["tf.config.experimental.tensor_float_32_execution_enabled()"] == "True"
    if BACKEND == "jax":
        assert (before["jax_default_matmul_precision"], within["jax_default_matmul_precision"]) == (
            "bfloat16",
            "highest",
        )
    assert within["torch.get_float32_matmul_precision()"] == "highest"
    for name, value in within.items():
        if name.startswith("torch.backends"):
            assert value in ("False", "ieee"), name


TORCH_SETTINGS: dict[str, Callable[[Any], None]] = {
    "medium": lambda torch: torch.set_float32_matmul_precision("medium"),
    "high": lambda torch: torch.set_float32_matmul_precision("high"),
    "products allowed": lambda torch: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "convolutions forbidden": lambda torch: setattr(torch.backends.cudnn, "allow_tf32", False),
}


@pytest.mark.parametrize("setting", TORCH_SETTINGS)
def test_pytorchs_switches_are_as_they_were(setting: str) -> None:
    """Whatever backend Keras runs on: PyTorch computes the reference."""
    import torch

    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        TORCH_SETTINGS[setting](torch)
        before = switches(), torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert (switches(), torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32) == before
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


# --- What lower precision costs ---


@nightly_on("jax")
def test_lower_precision_is_measured_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "half_precisions", lambda: ("bfloat16",))
    verification = verified(VIT)
    assert verification.passed
    (cost,) = verification.to_json()["measured_not_judged"]
    assert cost["way"] == "bfloat16"
    assert cost["rms"] > 100 * verification.rounding[0].rms
    assert 0.9 < cost["smallest_cosine"] < 0.999999
    text = to_text(verification)
    assert "what lower precision costs (measured on the first form, not judged)" in text and "bfloat16" in text


def test_tf32_is_measured_where_the_device_uses_it_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "half_precisions", tuple)
    from mobileclip_keras.verify import verification as module

    monkeypatch.setattr(module, "kept_bits", lambda: 10)
    verification = verified(VIT)
    assert [cost.way for cost in verification.costs] == [module.DEFAULT]


def test_features_that_overflow_are_no_numbers_in_the_record() -> None:
    truth = Features(np.eye(2), np.eye(2))
    cost = measure_cost("float16", Features(np.full((2, 2), np.inf), np.eye(2)), truth).to_json()
    assert cost["rms"] is None and cost["smallest_cosine"] is None


# --- What it says ---


def rounding(program: str, ratio: float) -> RoundingCheck:
    return RoundingCheck("train", program, ratio, ratio, 1.0, 1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("checks", "bits", "words"),
    [
        ([("encode", 9.0), ("predict", 1.0)], 23, "differs by predict"),
        ([("encode", 300.0), ("predict", 300.0)], 10, "TF32 keeps 10"),
        ([("encode", 300.0), ("predict", 300.0)], 23, "something computes in a lower precision"),
        ([("encode", 2.0), ("predict", 2.0)], 23, "nothing points to a lower precision"),
    ],
)
def test_reasons(checks: list[tuple[str, float]], bits: int, words: str) -> None:
    if bits == 23 and checks[0][1] == 9.0:
        words = "agrees by predict and differs by encode"
    reason = find_reason([ExactCheck("train", 1e-15, 1e-15)], [rounding(*check) for check in checks], bits)
    assert words in reason


def test_no_reason_is_given_where_float64_differs() -> None:
    assert find_reason([ExactCheck("train", 1e-3, 1e-15)], [rounding("encode", 9.0)], 23) is None


@pytest.mark.parametrize(("ratio", "luck"), [(1.4, False), (1.6, True), (14.0, True), (16.0, False)])
def test_pytorch_runs_again_where_an_error_may_be_luck(ratio: float, luck: bool) -> None:
    assert rounding("encode", ratio).may_be_luck == luck


# --- The processor ---


def test_the_processor_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx512_bf16 amx_tile\n")
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    for read in (processor.processor_name, processor.processor_precisions):
        monkeypatch.setattr(processor, read.__name__, read.__wrapped__)
    assert processor.processor_name() == "Fast CPU" and processor.processor_precisions() == ("bfloat16",)
    cpuinfo.unlink()
    assert processor.processor_name() and processor.processor_precisions() == ()
    assert precision.FLOAT32_BITS == 23


# --- At real size ---


def broken_when_compiled(right: Callable) -> Callable:
    """A convolution that is half as large again in what is compiled."""

    def wrong(array: Any, *others: Any, **options: Any) -> Any:
        result = right(array, *others, **options)
        return result * 1.5 if is_compiling(array) and "float64" not in str(result.dtype) else result

    return wrong


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.compiles
def test_a_real_variant_with_broken_compiled_convolutions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On JAX the sum of shifted inputs, which stands in for depthwise convolutions in compiled programs on CPUs."""
    if BACKEND == "jax":
        from mobileclip_keras.keras_models.kernels import jax as module

        monkeypatch.setattr(module, "sum_of_shifted", broken_when_compiled(module.sum_of_shifted))
    else:
        monkeypatch.setattr(kernels, "convolve", broken_when_compiled(kernels.convolve))
    source = write(arrays(S0), tmp_path / "s0.safetensors")
    verifications: list[Verification] = []
    with pytest.raises(VerificationError, match="not equal to PyTorch"):
        convert(source, tmp_path / "folder", report=verifications.append)
    assert not (tmp_path / "folder").exists()
    (verification,) = verifications
    failed = {check.program for check in verification.rounding if not check.passed}
    assert failed == {COMPILED} and f"differs by {COMPILED}" in verification.reason


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.compiles
def test_a_real_variant_is_verified_thoroughly(tmp_path: Path) -> None:
    """On PyTorch, both forms compiled by Inductor."""
    source = write(arrays(S0), tmp_path / "s0.safetensors")
    folder = convert(source, tmp_path / "folder", verify=False).folder
    verification = verify_folder(folder, source, silent, thorough=True)
    assert verification.passed
    name = "compile" if BACKEND == "torch" else COMPILED
    assert {(c.form, c.program) for c in verification.rounding} >= {("inference", name), ("train", name)}
