"""What Keras runs on where the user has not chosen."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import MissingPackageError

BACKENDS = ("tensorflow", "jax", "torch")
"""In the order of preference. The first is Keras' own default."""


def choose_backend() -> None:
    """Has Keras run on an installed backend where it would ask for one that is not installed.

    Keras asks for KERAS_BACKEND, else for the backend in its config file, else for TensorFlow. KERAS_BACKEND is set
    only where it is unset and the other answer is not installed. Nothing is done once Keras is imported.
    """
    if os.environ.get("KERAS_BACKEND") or "keras" in sys.modules or _is_installed(_asked_for()):
        return
    installed = [name for name in BACKENDS if _is_installed(name)]
    if installed:
        os.environ["KERAS_BACKEND"] = installed[0]


AUTOTUNING = "--xla_gpu_autotune_level"


def compile_quickly() -> None:
    """Has JAX take the first way to multiply on a GPU, where it else times all of them, for each shape.

    For a process that runs hundreds of operations once: on an H200, JAX took 108 s to choose for 160 of S0's, and 27 s
    to compile all 358 without choosing. Another way adds up in another order, in the same precision. Nothing is done
    where the user says something about it in XLA_FLAGS; JAX reads these with its first operation.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if AUTOTUNING not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {AUTOTUNING}=0".strip()


def missing_backend(error: ImportError) -> MissingPackageError | None:
    """The plain error for a failed import of Keras' backend; None where something else failed."""
    if error.name not in BACKENDS or error.name != (os.environ.get("KERAS_BACKEND") or _asked_for()):
        return None
    if os.environ.get("KERAS_BACKEND") and any(_is_installed(name) for name in BACKENDS):
        return MissingPackageError(
            f"KERAS_BACKEND is {error.name}, which is not installed. Install it with "
            f'pip install "mobileclip-keras[{error.name}]", or set KERAS_BACKEND to what is installed.'
        )
    return MissingPackageError(
        "Keras needs TensorFlow, JAX or PyTorch to run on, and none is installed. Install one, such as with "
        'pip install "mobileclip-keras[tensorflow]".'
    )


def _asked_for() -> str:
    """The backend that Keras takes without KERAS_BACKEND."""
    home = os.path.expanduser("~")
    usual = Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"
    folder = Path(os.environ.get("KERAS_HOME", usual)).expanduser()
    try:
        return str(json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend", BACKENDS[0]))
    except (OSError, ValueError, AttributeError):  # no such file, or not a JSON object: Keras passes over it, too
        return BACKENDS[0]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a module that was put into sys.modules by hand has no spec
        return True
