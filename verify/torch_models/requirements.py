"""What the PyTorch side needs, and the errors raised where it has not got it."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ...keras_models.errors import MissingPackageError, MobileClipError

_PACKAGES = {"torch": "PyTorch", "timm": "timm", "open_clip": "open_clip"}
OLDEST_TIMM = "1.0.21"
"""As in pyproject.toml. With 1.0.20 the verification fails."""


class ReferenceMismatchError(MobileClipError):
    """The checkpoint's tensors are not exactly those of the PyTorch model that was asked for."""


def require_packages() -> None:
    """Checks that PyTorch, timm and open_clip are installed, without importing any of them.

    Raises:
        MissingPackageError: naming every package that is not there, or the version of timm if it is too old.
    """
    missing = [title for module, title in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"Comparing with PyTorch needs {' and '.join(missing)}, not installed here. "
            'Install with: pip install "mobileclip-keras[verify]"'
        )
    installed = _installed_timm()
    if installed is not None and _numbers(installed) < _numbers(OLDEST_TIMM):
        raise MissingPackageError(
            f"Comparing with PyTorch needs timm {OLDEST_TIMM} or newer; timm {installed} is installed here. "
            'Update with: pip install --upgrade "mobileclip-keras[verify]"'
        )


def keep_triton_out() -> None:
    """Has timm and open_clip do without Triton where TensorFlow is loaded, for the rest of the process.

    TensorFlow and Triton each bring their own LLVM. The second of them to be loaded ends the process
    (tensorflow/tensorflow#124205). timm and open_clip import Triton through torchvision, for compiling GPU kernels.
    On a CPU, where references run, they compute the same without it.
    """
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def _installed_timm() -> str | None:
    """The version of timm; None where it does not say."""
    try:
        return version("timm")
    except PackageNotFoundError:  # a copy on the path that was not installed
        return None


def _numbers(text: str) -> list[int]:
    """The first three numbers of a version: 1.0.21.dev0 counts as 1.0.21."""
    return [int(number) for number in re.findall(r"\d+", text)[:3]]
