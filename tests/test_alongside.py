"""Both sides of a verification at once: what fails on one side ends the other, and nothing is computed twice."""

import threading
import time

import keras
import pytest
import torch

from mobileclip_keras.verify.running import alongside
from mobileclip_keras.verify.running.alongside import Once, Steps, StoppedError, each, torch_alongside

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
    assert len(entered) == 2 and all(name.startswith("Keras") for name in entered)
