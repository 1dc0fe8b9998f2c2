"""Loading and computing in one thread changes nothing of Keras in another."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.kernels import float64_enabled, float64_is_kept
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.keras_models.store.weights_file import save_model

from .small import small_model

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers", "quickly_compiled")]

TIMES = 120


def at_once(*tasks: Callable[[threading.Event], None]) -> None:
    """Runs tasks in threads of their own until the first one is done; raises what any of them raised."""
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(task: Callable[[threading.Event], None]) -> None:
        try:
            task(done)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def keras_model() -> keras.Model:
    """Somebody else's model, whose initial values show whose initialisers made them."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, kernel_initializer="ones", bias_initializer="ones", name="first"),
            keras.layers.Dense(1, kernel_initializer="ones", name="second"),
        ]
    )


def check_keras_model() -> None:
    model = keras_model()
    assert all(keras.ops.convert_to_numpy(v).all() for v in model.weights if "bias" not in v.path)
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.weights} == {"float32"}
    narrowed = keras.backend.result_type("float64", "float32")
    assert narrowed == ("float64" if keras.backend.backend() == "tensorflow" else "float32")


def test_another_thread_builds_and_trains_keras_models_meanwhile(tmp_path: Path) -> None:
    model = small_model(None, "small_transformer")
    save_model(model, tmp_path / "saved")
    loads = 0

    def load(done: threading.Event) -> None:
        nonlocal loads
        while not done.is_set():
            loaded = load_folder(tmp_path / "saved", towers="text")
            for mine, saved in zip(loaded.weights, model.weights, strict=True):
                assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(saved)), saved.path
            loads += 1
            done.wait(0.02)

    def build(done: threading.Event) -> None:
        for time in range(TIMES):
            if done.is_set():
                break
            check_keras_model()
            if time % 40 == 0:
                other = keras_model()
                other.compile("sgd", "mse")
                before = other.get_weights()
                other.fit(np.ones((4, 4), "float32"), np.zeros((4, 1), "float32"), verbose=0)
                assert not np.array_equal(before[0], other.get_weights()[0])

    at_once(build, load)
    assert loads > 0


def test_a_float64_model_in_threads_leaves_keras_as_it_was() -> None:
    images = np.random.default_rng(0).random((1, 64, 64, 3))
    with float64_enabled():
        model = small_model("small_mci", None, "float64")
        expected = keras.ops.convert_to_numpy(model.encode_image(images))

    def compute(done: threading.Event) -> None:
        with float64_enabled():
            assert float64_is_kept()
            for _ in range(2):
                made = keras.ops.convert_to_numpy(model.encode_image(images))
                assert made.dtype == np.float64 and np.abs(made - expected).max() < 1e-12

    def watch(done: threading.Event) -> None:
        while not done.is_set():
            check_keras_model()

    at_once(compute, watch)
    check_keras_model()


def test_two_saves_at_once(tmp_path: Path) -> None:
    models = [small_model(None, "small_transformer"), small_model("small_vit", None)]

    def save(number: int) -> Callable[[threading.Event], None]:
        def task(done: threading.Event) -> None:
            for time in range(10):
                save_model(models[number], tmp_path / f"{number}-{time}")

        return task

    at_once(save(0), save(1))
    for number, model in enumerate(models):
        for folder in tmp_path.glob(f"{number}-*"):
            loaded: MobileClipModel = keras.saving.load_model(folder)
            for mine, saved in zip(loaded.weights, model.weights, strict=True):
                assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(saved))


@pytest.mark.skipif(os.name != "posix", reason="a system without umask")
def test_files_of_other_threads_keep_their_permissions_meanwhile(tmp_path: Path) -> None:
    model = small_model(None, "small_mct_of_64_words")
    (tmp_path / "before").touch()
    expected = (tmp_path / "before").stat().st_mode

    def save(done: threading.Event) -> None:
        for time in range(10):
            model.save_pretrained(tmp_path / f"saved-{time}")

    def touch(done: threading.Event) -> None:
        number = 0
        while not done.is_set():
            file = tmp_path / f"file-{(number := number + 1)}"
            file.touch()
            assert file.stat().st_mode == expected

    at_once(save, touch)
    assert all(file.stat().st_mode == expected for file in tmp_path.glob("saved-*/*.h5"))


def test_what_is_to_be_overwritten_is_so_in_one_thread_alone() -> None:
    def other(done: threading.Event) -> None:
        check_keras_model()
        model = small_model(None, "small_transformer")
        assert all(np.abs(keras.ops.convert_to_numpy(v)).max() > 0 for v in model.trainable_weights)

    with to_be_overwritten():
        at_once(other)
        check_keras_model()
