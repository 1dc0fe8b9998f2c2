"""What the PyTorch side needs, and the errors raised where it has not got it."""

import importlib.util
import sys

from ...keras_models.errors import MissingPackageError, MobileClipError

_PACKAGES = {"torch": "PyTorch", "timm": "timm", "open_clip": "open_clip"}


class ReferenceMismatchError(MobileClipError):
    """The checkpoint's tensors are not exactly those of the PyTorch model that was asked for."""


def require_packages() -> None:
    """Check, without importing any of them, that PyTorch, timm and open_clip are installed and can be imported.

    Raises:
        MissingPackageError: naming every package that is not there.
    """
    missing = [title for module, title in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"Comparing with PyTorch needs {' and '.join(missing)}, not installed here. "
            'Install with: pip install "mobileclip-keras[verify]"'
        )
    if "tensorflow" in sys.modules:
        # TensorFlow and Triton each bring an LLVM of their own, and the second of them to be loaded ends the process
        # (tensorflow/tensorflow#124205). timm and open_clip import Triton by way of torchvision, for compiling GPU
        # kernels; without it they do the same on a CPU, which is where references run.
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
