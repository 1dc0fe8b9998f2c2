"""A plug-in for CLIP_benchmark (github.com/LAION-AI/CLIP_benchmark): its own harness runs a Keras model.

    python -m mobileclip_keras.verify.evaluation.clip_benchmark eval --model_type mobileclip_keras --model FOLDER …

is `clip_benchmark eval …` with one more `--model_type`. `--model` is what `from_pretrained` takes; `--pretrained` is
not used. `--no_amp` computes in float32, as `mobileclip-keras evaluate` does.
"""

import builtins
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.errors import MissingPackageError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ..torch_models.requirements import keep_triton_out

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "mobileclip_keras"


def load(model_name: str, device: "str | torch.device" = "cpu", **_: Any) -> tuple[Any, Any, Any]:
    """What CLIP_benchmark asks of a model type: (model, transform, tokenizer).

    Args:
        model_name: a converted folder, a repository or a variant.
        device: where the features go. Keras computes on the device that its backend chose.
    """
    import torch

    from ...keras_models.models.features import encode
    from ...keras_models.models.model import MobileClipModel

    network = MobileClipModel.from_pretrained(model_name, towers="both")

    class Towers(torch.nn.Module):
        """The Keras model as a module: it takes and gives PyTorch's tensors."""

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            """float32 (batch, px, px, 3) to (batch, width), of length 1."""
            return self._encode("image", images)

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            """int32 (batch, 77) to (batch, width), of length 1."""
            return self._encode("text", tokens)

        def _encode(self, key: str, rows: torch.Tensor) -> torch.Tensor:
            features = encode(network, key, rows.cpu().numpy(), max(len(rows), 1))
            return torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)

    return (
        Towers(),
        Transform(ImagePreprocessor.from_pretrained(model_name)),
        Tokens(network.text_encoder.context_length),
    )


class Transform:
    """Preprocessing of one Pillow image, in whatever process loads the data."""

    def __init__(self, preprocess: ImagePreprocessor) -> None:
        self._preprocess = preprocess

    def __call__(self, image: Any) -> Any:
        """A tensor, float32 (px, px, 3)."""
        import torch

        return torch.from_numpy(self._preprocess(image)[0])


class Tokens:
    """The tokenizer, with tensors for results."""

    def __init__(self, context_length: int) -> None:
        self._tokenize = Tokenizer(context_length)

    def __call__(self, texts: list[str]) -> Any:
        """A tensor, int32 (len(texts), 77)."""
        import torch

        return torch.from_numpy(np.asarray(self._tokenize(list(texts))))


def their_metrics() -> tuple[Any, Any]:
    """CLIP_benchmark's modules for classification and for retrieval, fit for today's NumPy.

    Its version 1.6.2 makes a number of an array of length 1, which NumPy 2.4 refuses. So `float` is another function in
    that module. It gives the same number.

    Raises:
        MissingPackageError: where CLIP_benchmark is not installed.
    """
    keep_triton_out()
    try:
        from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "CLIP_benchmark is not installed. Install with: pip install clip-benchmark"
        ) from error
    zeroshot_classification.float = lambda value: builtins.float(np.asarray(value).item())
    return zeroshot_classification, zeroshot_retrieval


def register() -> None:
    """Makes the model type known to CLIP_benchmark in this process."""
    import keras  # noqa: F401  # before PyTorch's libraries, which must know whether TensorFlow is there

    their_metrics()
    from clip_benchmark import models

    models.TYPE2FUNC[MODEL_TYPE] = load
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)


def main() -> None:
    """Runs CLIP_benchmark's own command line."""
    register()
    from clip_benchmark.cli import main as their_main

    their_main()


if __name__ == "__main__":
    main()
