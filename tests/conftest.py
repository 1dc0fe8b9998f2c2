"""What every test relies on. The environment is set before anything imports Keras."""

import gc
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DEFAULTS = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",  # set it to 0 to run the suite on a GPU
    "OMP_WAIT_POLICY": "PASSIVE",  # PyTorch's idle threads would spin, and take the cores from the others
    "JAX_ENABLE_X64": "1",  # else JAX turns float64 into float32 without a word
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)

# What JAX compiled, for both workers and for the next run: compiling takes most of the time of small models.
JAX_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
JAX_DEFAULTS = {
    "JAX_COMPILATION_CACHE_DIR": str(JAX_CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
if os.environ["KERAS_BACKEND"] == "jax":
    for name, value in JAX_DEFAULTS.items():
        os.environ.setdefault(name, value)

# These files import PyTorch, timm, open_clip or torchvision at their top. No test of them has the marker `backend`
# without `torch`, so an environment of one backend loses nothing that it is asked for.
NEED_TORCH = (
    "test_alongside.py",
    "test_bad_files.py",
    "test_checkpoint.py",
    "test_cli.py",
    "test_convert.py",
    "test_evaluation_metrics.py",
    "test_mutants.py",
    "test_one_tower.py",
    "test_own_memory.py",
    "test_preprocessing.py",
    "test_shown.py",
    "test_to_torch.py",
    "test_torchscript.py",
    "test_training_checkpoints.py",
)
collect_ignore = [] if all(map(find_spec, ("torch", "torchvision", "timm", "open_clip"))) else list(NEED_TORCH)

# TensorFlow since 2.20 lends its LLVM to every library loaded after it. Triton, which torchvision, timm and
# open_clip load by way of PyTorch, then aborts the process (tensorflow/tensorflow#124205); loaded first, it
# keeps to its own.
if find_spec("triton"):
    import triton  # noqa: F401


MARKS_BACKEND = re.compile(r"\bmark\.backend\b|\bnightly_on\(")
"""What a file says that gives a test the marker `backend`."""


def depends_on_backend(file: Path) -> bool:
    """Whether some test of a file has the marker `backend`."""
    return bool(MARKS_BACKEND.search(file.read_text(encoding="utf-8")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where tests with the marker `backend` alone are asked for, files without one are not imported: that takes 8 s, in
    each process."""
    wanted = config.option.markexpr.split(" and ")
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    if "backend" not in wanted or " or " in config.option.markexpr or not is_test:
        return None
    return True if not depends_on_backend(collection_path) else None


@pytest.hookimpl(tryfirst=True)  # before any are left out by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `nightly_on` leaves to the night depends on the backend all the same."""
    for item in items:
        if any(mark.kwargs.get("backend") for mark in item.iter_markers("nightly")):
            item.add_marker("backend")
    files = {item.path for item in items if item.get_closest_marker("backend")}
    for file in files:
        if not depends_on_backend(file):
            raise pytest.UsageError(f"{file} has tests with the marker backend, which MARKS_BACKEND does not find.")


def pytest_collection_finish() -> None:
    """What was imported stays until the end. Python need not look at its 850,000 objects with each look for garbage:
    0.4 s, after every file and many times in between."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_dtype_policy() -> Iterator[None]:
    """A test may set Keras's global dtype policy; the next one starts from float32 again."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back() -> Iterator[None]:
    """Models refer to themselves in circles, and Python lets go of few large objects late: GiB of them.

    What is left is what tests have imported, and stays as above.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def quickly_verified(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifications leave out half precision, which a test may ask for, and the compiled program, but in tests that
    are marked with `compiles`."""
    from mobileclip_keras.keras_models import kernels

    monkeypatch.setattr(kernels, "half_precisions", tuple)
    if not request.node.get_closest_marker("compiles"):
        monkeypatch.setattr(kernels, "compiled", lambda model, thorough: None)


@contextmanager
def optimising(wanted: bool) -> Iterator[None]:
    """Whether XLA optimises what JAX compiles within this context. Other backends run as ever."""
    import keras

    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quickly_compiled() -> Iterator[None]:
    """On JAX, in the tests of a file, XLA leaves most optimisations out: for what is not about compiled programs,
    three quarters of the time where nothing is in JAX_CACHE."""
    with optimising(False):
        yield


@pytest.fixture
def operations_quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On JAX, in a test, XLA leaves most optimisations out, but of the compiled program of a verification."""
    from mobileclip_keras.keras_models import kernels

    right = kernels.compiled

    def compiled(model: Any, thorough: bool) -> Any:
        made = right(model, thorough)
        if made is None:
            return None
        name, program = made

        def optimised(inputs: Any) -> Any:
            with optimising(True):
                return program(inputs)

        return name, optimised

    monkeypatch.setattr(kernels, "compiled", compiled)
    with optimising(False):
        yield


@pytest.fixture(scope="module")
def small_towers() -> Iterator[None]:
    """Makes the towers of small.py known by name to the tests of a file."""
    from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS

    from .small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS

    with pytest.MonkeyPatch.context() as patch:
        for known, small in ((IMAGE_TOWERS, KNOWN_IMAGE_TOWERS), (TEXT_TOWERS, KNOWN_TEXT_TOWERS)):
            for name, config in small.items():
                patch.setitem(known, name, config)
        yield


@pytest.fixture(scope="module")
def small_bundles() -> Iterator[None]:
    """In the tests of a file, the towers that are exported are small, and so are PyTorch's."""
    from .bundle_support import small_everywhere

    with small_everywhere():
        yield


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder of small towers that is verified. Not to be changed."""
    from .bundle_support import write_small_folder

    return write_small_folder(tmp_path_factory.mktemp("converted") / "small-keras")


@pytest.fixture(scope="session")
def litert_bundle(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle of it for LiteRT, of two batches. Not to be changed."""
    from .bundle_support import export_small

    return export_small(small_folder, "litert", tmp_path_factory.mktemp("bundles") / "litert", batch="1,4")


@pytest.fixture
def bundle_copy(litert_bundle: Any, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(litert_bundle.folder, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def verified_folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in both forms that may be published, where `small_variant` makes its variant small. Not to be
    changed."""
    from .converted import MEAN, VARIANT, record_sample, write_converted
    from .small import small_model, small_variant

    with small_variant(VARIANT, mean=MEAN):
        made = write_converted(small_model(variant=VARIANT), tmp_path_factory.mktemp("made") / "converted")
        record_sample(made)
    return made


@pytest.fixture
def publishable(verified_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `verified_folder`, that `publish` takes."""
    from .converted import MEAN, VARIANT
    from .small import small_variant

    with small_variant(VARIANT, mean=MEAN):
        yield Path(shutil.copytree(verified_folder, tmp_path / "converted"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub on loopback where HF_TOKEN belongs to `user`; tests/hub/ has it."""
    from .hub import Hub, use_hub

    with Hub(tmp_path / "hub") as made:
        use_hub(monkeypatch, made, tmp_path / "home", made.add_user("user"))
        yield made
