"""What a process of `export` gives back, and what it does without."""

import copy
import ctypes
import gc
import os
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from mobileclip_keras.converters.deploy import worker
from mobileclip_keras.converters.deploy.own_memory import give_back
from mobileclip_keras.converters.deploy.proofs.inputs import ProofInputs
from mobileclip_keras.converters.deploy.proofs.reference import compute_truth
from mobileclip_keras.converters.deploy.runtimes import onnx_file
from mobileclip_keras.verify.torch_models import TorchReference

from .small_verified import MCI
from .small_verified import inputs as small_inputs
from .small_verified import reference as small_reference


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


@pytest.mark.parametrize("towers", [("image", "text"), ("text",)])
def test_one_tower_at_a_time_is_there_in_float64(monkeypatch: pytest.MonkeyPatch, towers: tuple[str, ...]) -> None:
    """While the image tower computes, the text tower is gone, and so is what the image tower was folded from."""
    known, given = small_reference(MCI), small_inputs(MCI[0])
    made: list[weakref.ref] = []

    def build() -> TorchReference:
        own = copy.deepcopy(known)
        made.extend(weakref.ref(module) for module in (own.image_tower, own.text_tower))
        return own

    def encode_image(self: TorchReference, *arguments: Any, **options: Any) -> np.ndarray:
        if next(self.image_tower.parameters()).dtype == torch.float64:
            assert [module() for module in made] == [None, None]
        return real(self, *arguments, **options)

    real = TorchReference.encode_image
    monkeypatch.setattr(TorchReference, "encode_image", encode_image)
    truth = compute_truth(build, ProofInputs(given, None), towers, more=False)
    folded = known.reparameterize()
    assert truth.exact.text is not None
    np.testing.assert_array_equal(truth.exact.text, folded.encode_text(given.tokens))
    assert (truth.exact.image is None) == ("image" not in towers)
    if truth.exact.image is not None:
        np.testing.assert_array_equal(truth.exact.image, folded.encode_image(given.images))
    assert [run.image is None for run in truth.runs] == 2 * ["image" not in towers]
