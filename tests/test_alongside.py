"""Both sides of a verification at once: what fails on one side ends the other, and nothing is computed twice."""

import gc
import threading
import time
import weakref

import keras
import pytest
import torch

from mobileclip_keras.keras_models.towers.folding import reparameterize
from mobileclip_keras.verify import verification
from mobileclip_keras.verify.precision import switches
from mobileclip_keras.verify.running import alongside
from mobileclip_keras.verify.running.alongside import Once, Steps, StoppedError, each, torch_alongside

from .small_verified import VIT, build, inputs, reference, rows_of

PRECISIONS = ("float32", "float64")
THREADED = keras.backend.backend() != "torch"


def silent(_: str) -> None: ...


def test_a_value_is_computed_once_and_others_wait_for_it() -> None:
    known: Once[str, float] = Once()
    calls: list[str] = []

    def compute() -> float:
        calls.append("")
        time.sleep(0.05)
        return 1.5

    jobs = {str(i): lambda: known.of("key", compute) for i in range(4)}
    assert each(jobs, at_once=True, steps=Steps(silent)) == dict.fromkeys("0123", 1.5)
    assert len(calls) == 1
    assert known.of("another key", lambda: 2.5) == 2.5


def test_threads_leave_the_switches_as_they_were() -> None:
    """Those of the whole process: no thread may take for the user's what another has set."""
    before, both = switches(), threading.Barrier(2)

    def first() -> None:
        both.wait(60)

    def second() -> None:
        both.wait(60)
        time.sleep(0.3)  # so that it leaves its context after the other

    each({"first": first, "second": second}, at_once=True, steps=Steps(silent))
    assert switches() == before


def test_who_waits_for_a_value_that_failed_gets_the_error() -> None:
    known: Once[str, int] = Once()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            known.of("key", lambda: 1 // 0)


def test_an_error_in_keras_ends_pytorch_at_its_next_step() -> None:
    if not THREADED:
        pytest.skip("on PyTorch its side has run before Keras' begins")
    steps, began, failed = Steps(silent), threading.Event(), threading.Event()
    ended: list[type[BaseException]] = []

    def work() -> None:
        report = steps.of("PyTorch")
        report("first")
        began.set()
        failed.wait(10)
        while True:
            try:
                report("next")
            except BaseException as error:
                ended.append(type(error))
                raise
            time.sleep(0.01)

    with pytest.raises(ZeroDivisionError), torch_alongside(work, steps):
        began.wait(10)
        failed.set()
        raise ZeroDivisionError
    assert ended == [StoppedError]


def test_an_error_in_pytorch_is_raised_where_its_result_is_asked_for() -> None:
    def work() -> int:
        return 1 // 0

    with pytest.raises(ZeroDivisionError), torch_alongside(work, Steps(silent)) as wait:
        wait()


def test_an_error_in_one_form_ends_the_other() -> None:
    steps = Steps(silent)

    def endless() -> None:
        while True:
            steps.of("train")("next")
            time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        each({"inference": lambda: 1 // 0, "train": endless}, at_once=True, steps=steps)


def test_pytorch_computes_on_half_of_its_threads_and_has_all_of_them_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with torch_alongside(torch.get_num_threads, Steps(silent)) as wait:
            assert wait() == (2 if THREADED else 4)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_progress_names_what_each_side_computes() -> None:
    shown: list[str] = []
    steps = Steps(shown.append)
    steps.of("PyTorch")("PyTorch in float64")
    steps.of("train")("Keras in float64")
    steps.end("PyTorch")
    steps.of("train")("Keras in float32")
    assert shown == ["PyTorch in float64", "PyTorch in float64, Keras in float64", "Keras in float32"]


def test_jobs_in_threads_compute_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    class Entered:
        def __enter__(self) -> None:
            entered.append(threading.current_thread().name)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(alongside, "full_float32", Entered)
    each({"inference": lambda: None, "train": lambda: None}, at_once=True, steps=Steps(silent))
    assert len(entered) == 3 and all(name.startswith("Keras") for name in entered[1:])


@pytest.mark.usefixtures("small_towers", "quickly_verified")
def test_of_a_large_model_the_first_form_alone_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lower precision costs is measured on it. Both forms would take another GB and more."""
    made: dict[tuple[str, str], weakref.ref] = {}

    def make_model(form: str, dtype: str) -> keras.Model:
        model = reparameterize(trained, form, dtype)
        made[form, dtype] = weakref.ref(model)
        return model

    def costs(model: keras.Model, *_: object) -> list:
        gc.collect()
        assert made["inference", "float32"]() is model
        kept.extend(key for key, reference in made.items() if reference() is not None)
        return []

    kept: list[tuple[str, str]] = []
    trained = build(VIT, rows_of(VIT))
    monkeypatch.setattr(verification, "AT_ONCE", 0)
    monkeypatch.setattr(verification, "_costs", costs)
    found = verification.verify_model(
        "mobileclip_s0", make_model, ("inference", "train"), reference(VIT), inputs(VIT[0])
    )
    assert found.passed and set(made) == {(form, dtype) for form in ("inference", "train") for dtype in PRECISIONS}
    assert kept == [("inference", "float32")]
