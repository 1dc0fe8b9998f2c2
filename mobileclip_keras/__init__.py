"""MobileCLIP and MobileCLIP2 in Keras 3: models, preprocessing, tokenizer, and conversion from and to PyTorch.

Nothing heavy is imported before it is used: Keras with the first model, PyTorch only by what compares with it.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import wrapt

from .keras_models.backend_choice import choose_backend, missing_backend

if TYPE_CHECKING:
    from .keras_models.errors import MobileClipError as MobileClipError
    from .keras_models.inputs.preprocessing import ImagePreprocessor as ImagePreprocessor
    from .keras_models.inputs.tokenizer import Tokenizer as Tokenizer
    from .keras_models.models.distiller import Distiller as Distiller
    from .keras_models.models.image_encoder import ImageProjectionHead as ImageProjectionHead
    from .keras_models.models.image_encoder import MobileClipImageEncoder as MobileClipImageEncoder
    from .keras_models.models.model import MobileClipModel as MobileClipModel
    from .keras_models.models.model import create_mobile_clip_model as create_mobile_clip_model
    from .keras_models.models.text_encoder import MobileClipTextEncoder as MobileClipTextEncoder
    from .keras_models.tasks.embedding.embedder import Embedder as Embedder
    from .keras_models.tasks.embedding.on_ray.worker import RayEmbedder as RayEmbedder
    from .keras_models.tasks.embedding.searching import Collection as Collection
    from .keras_models.tasks.embedding_files import Embeddings as Embeddings
    from .keras_models.tasks.retrieval import EmbeddingIndex as EmbeddingIndex
    from .keras_models.tasks.zero_shot import ZeroShotClassifier as ZeroShotClassifier
    from .keras_models.training.distillation import TeacherFeatures as TeacherFeatures
    from .keras_models.training.distillation import distillation_loss as distillation_loss
    from .keras_models.training.interpolation import interpolate as interpolate
    from .keras_models.training.losses import contrastive_loss as contrastive_loss
    from .keras_models.training.optimizer import fine_tuning_recipe as fine_tuning_recipe
    from .keras_models.training.reinforced_shards import ReinforcedShards as ReinforcedShards

try:
    __version__ = version("mobileclip-keras")
except PackageNotFoundError:  # a checkout that has not been installed
    __version__ = "0+unknown"

_HOMES = {
    "Distiller": "keras_models.models.distiller",
    "Collection": "keras_models.tasks.embedding.searching",
    "Embedder": "keras_models.tasks.embedding.embedder",
    "EmbeddingIndex": "keras_models.tasks.retrieval",
    "Embeddings": "keras_models.tasks.embedding_files",
    "ImagePreprocessor": "keras_models.inputs.preprocessing",
    "ImageProjectionHead": "keras_models.models.image_encoder",
    "MobileClipError": "keras_models.errors",
    "MobileClipImageEncoder": "keras_models.models.image_encoder",
    "MobileClipModel": "keras_models.models.model",
    "MobileClipTextEncoder": "keras_models.models.text_encoder",
    "RayEmbedder": "keras_models.tasks.embedding.on_ray.worker",
    "ReinforcedShards": "keras_models.training.reinforced_shards",
    "TeacherFeatures": "keras_models.training.distillation",
    "Tokenizer": "keras_models.inputs.tokenizer",
    "ZeroShotClassifier": "keras_models.tasks.zero_shot",
    "contrastive_loss": "keras_models.training.losses",
    "create_mobile_clip_model": "keras_models.models.model",
    "distillation_loss": "keras_models.training.distillation",
    "fine_tuning_recipe": "keras_models.training.optimizer",
    "interpolate": "keras_models.training.interpolation",
}

__all__ = ["__version__", *_HOMES]

# Here, because Keras asks for its backend once, when it is first imported, whoever imports it.
choose_backend()


@wrapt.when_imported("keras")
@wrapt.when_imported(f"{__name__}.keras_models.store.load")
def _register(_: Any) -> None:
    """Makes the models known to `keras.saving` as soon as Keras is there, before or after this package.

    Once more after `load.py`, which finds the models by their registered names: it may be what imports Keras.
    """
    for module in ("keras_models.models.model", "keras_models.inputs.preprocessing_layer"):
        try:
            import_module(f".{module}", __name__)
        except ImportError:
            # A module of this package is importing Keras, and is still half made. The models are registered when they
            # are imported next. If a package is really missing, that import will say so.
            continue


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        plain = missing_backend(error)
        if plain is None:
            raise
        raise plain from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
