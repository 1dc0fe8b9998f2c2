"""What a process of `export` gives back, and what it does without."""

import ctypes
import gc
import os
import sys
import weakref

import pytest

from mobileclip_keras.converters.deploy import worker
from mobileclip_keras.converters.deploy.own_memory import give_back
from mobileclip_keras.converters.deploy.runtimes import onnx_file


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_circles_are_freed() -> None:
    gone = weakref.ref(Circle())
    assert gone() is not None
    give_back()
    assert gone() is None


def test_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()


def test_a_worker_does_without_what_no_job_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    try:
        worker.prepare()
        assert all(sys.modules[name] is None for name in worker.UNUSED)
        assert gc.get_threshold() == (worker.NEW_OBJECTS, *before[1:])
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("before", [None, "TRUE"])
def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    name = onnx_file.CATCH_ERRORS
    monkeypatch.setenv(name, before) if before else monkeypatch.delenv(name, raising=False)
    with onnx_file.errors_raised():
        assert os.environ[name] == "FALSE"
    assert os.environ.get(name) == before
