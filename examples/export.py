"""Exporting: a SavedModel that TensorFlow runs without this package, and a LiteRT model for phones.

The tower is untrained here, so that nothing is downloaded. For a real one, start from
MobileClipTextEncoder.from_pretrained("s0"). Image towers are exported in the same way, from float32 images.
"""

import os
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import mobileclip_keras as mk

tokens = mk.Tokenizer()(["a photo of a cat"])
encoder = mk.MobileClipTextEncoder.from_variant("s0", form="inference")
features = np.asarray(encoder(tokens))

with tempfile.TemporaryDirectory() as folder:
    signature = [tf.TensorSpec(tokens.shape, tokens.dtype)]
    encoder.export(folder, input_signature=signature, verbose=False)
    program = tf.saved_model.load(folder)
    served = np.asarray(program.serve(tokens))
    flat = tf.lite.TFLiteConverter.from_saved_model(folder).convert()

interpreter = tf.lite.Interpreter(model_content=flat)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tokens)
interpreter.invoke()
lite = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

print(f"SavedModel: features {served.shape}; LiteRT: {len(flat) / 1e6:.0f} MB")
for name, outputs in {"SavedModel": served, "LiteRT": lite}.items():
    error = np.abs(outputs - features).max() / np.abs(features).max()
    print(f"{name} differs from Keras by {error:.0e} of the largest feature")
