"""The one private part of Keras that this package touches, with its reason and the public way beside it."""

from pathlib import Path
from typing import Any

import keras

from . import export_saved_model


class TakesTokens:
    """Mixed into a model that takes token ids: keeps Keras from tracing it for floats when it is exported.

    On TensorFlow, Keras gives every model a default signature of floats, and TensorFlow traces it for whatever it
    saves. LiteRT's converter, `tf.saved_model.save` and `ExportArchive.track` all meet it. A model of tokens refuses
    floats, so they all fail. There is no public switch. Read in Keras 3.15.1, keras/src/backend/tensorflow/layer.py.

    `export` to a SavedModel goes the public way, which never asks for that signature. It works without this attribute.
    """

    _default_save_signature = None

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.export`.

        Args:
            filepath: where to write.
            format: "tf_saved_model", "litert", "onnx", "openvino" or "torch", as far as Keras and its backend have it.
            verbose: whether to say what was written.
            input_signature: shapes and dtypes of the inputs, such as [keras.InputSpec(shape=(1, 77), dtype="int32")].
            kwargs: of `keras.Model.export`.
        """
        if format == "tf_saved_model" and input_signature is not None and not kwargs:
            export_saved_model(self, filepath, input_signature, verbose)
        else:
            keras.Model.export(self, filepath, format, verbose, input_signature, **kwargs)
