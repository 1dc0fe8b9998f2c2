"""Checks of the built wheel, run by .ci/run in an environment that holds it and its core dependencies.

    python -I tests/wheel_check.py CHECKOUT              no backend is installed
    python -I tests/wheel_check.py CHECKOUT --backend    JAX is installed, PyTorch and TensorFlow are not

`-I` keeps the checkout off the import path. The first failed check ends the run with its message.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "mobileclip_keras"
FOLDERS = ("converters", "keras_models", "verify", "weight_maps")
NEVER_THERE = ("matplotlib", "open_clip", "tensorflow", "timm", "torch", "torchvision")
# These consist of PyTorch's own classes and functions: nowhere else is PyTorch imported at the top of a file.
NEED_TORCH = (f"{PACKAGE}.verify.torch_models.", f"{PACKAGE}.verify.shapes.training.")
# What differs on a backend stands in a file of its own, which only that backend imports.
OTHER_BACKENDS = {
    f"{PACKAGE}.keras_models.kernels.{name}"
    for name in (
        *("tensorflow", "tensorflow_adamw", "tensorflow_chunks", "tensorflow_pixels"),
        *("torch", "torch_adamw", "torch_chunks", "torch_precision"),
    )
}


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"wheel check: {message}")


def check_environment(checkout: Path, backend: bool) -> None:
    there = [name for name in NEVER_THERE if find_spec(name)]
    check(not there, f"the environment should be without {', '.join(there)}")
    check(bool(find_spec("jax")) == backend, "JAX belongs to the run with --backend, and to that alone")
    package = Path(str(files(PACKAGE))).resolve()
    check(checkout not in package.parents, f"{package} is the checkout, not the wheel")


def source_files(checkout: Path) -> dict[str, Path]:
    """Every file that the wheel has to hold, by its path inside the package."""
    own = checkout / PACKAGE
    wanted = {path.name: path for path in own.iterdir() if path.is_file()}
    for folder in FOLDERS:
        for path in sorted((checkout / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                wanted[path.relative_to(checkout).as_posix()] = path
    return wanted


def check_files(checkout: Path) -> int:
    wanted = source_files(checkout)
    missing, different = [], []
    for name, source in wanted.items():
        shipped = files(PACKAGE).joinpath(name)
        if not shipped.is_file():
            missing.append(name)
        elif shipped.read_bytes() != source.read_bytes():
            different.append(name)
    check(not missing, "not in the wheel (see packages and package-data): " + ", ".join(missing))
    check(not different, "other bytes in the wheel than in the checkout: " + ", ".join(different))
    return len(wanted)


def check_without_backend() -> None:
    """The package, its version and what needs no array of Keras's work where no backend is installed."""
    package = importlib.import_module(PACKAGE)
    check("keras" not in sys.modules, f"`import {PACKAGE}` imported Keras, which needs a backend")
    check(package.__version__ == version("mobileclip-keras"), "__version__ is not the distribution's version")
    check(callable(package.Tokenizer), "Tokenizer is not there without a backend")
    check("keras" not in sys.modules, f"{PACKAGE}.Tokenizer imported Keras, which needs a backend")


def check_every_module() -> int:
    """Every module imports without PyTorch and TensorFlow, and every public name is there."""
    os.environ["KERAS_BACKEND"] = "jax"
    package = importlib.import_module(PACKAGE)
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
    names = [name for name in names if not f"{name}.".startswith(NEED_TORCH)]
    names = [name for name in names if not name.endswith(".__main__") and name not in OTHER_BACKENDS]
    for name in names:
        importlib.import_module(name)
    for name in package.__all__:
        getattr(package, name)
    return len(names)


def check_commands() -> None:
    for command in ("convert", "mobileclip-keras"):
        path = Path(sysconfig.get_path("scripts")) / command
        ran = subprocess.run([path, "--help"], capture_output=True, text=True)
        check(ran.returncode == 0 and "Usage" in ran.stdout, f"`{command} --help` failed:\n{ran.stderr}")


def main() -> None:
    checkout, backend = Path(sys.argv[1]).resolve(), "--backend" in sys.argv[2:]
    check_environment(checkout, backend)
    if backend:
        print(f"wheel check: {check_every_module()} modules import on JAX, without PyTorch and TensorFlow")
    else:
        count = check_files(checkout)
        check_without_backend()
        check_commands()
        print(f"wheel check: {count} files in place; imports and shows its help without a backend")


if __name__ == "__main__":
    main()
