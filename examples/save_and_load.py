"""Saving and loading: one .keras file that plain Keras opens, and the same outputs to the last bit."""

import tempfile
from pathlib import Path

import keras
import numpy as np

import mobileclip_keras as mk

model = mk.MobileClipModel.from_variant("s0")
inputs = {
    "image": np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype("float32"),
    "text": mk.Tokenizer()(["a cat", "a dog"]),
}

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mobileclip.keras"
    model.save(file)
    print(f"saved {file.stat().st_size / 1e6:.0f} MB")
    loaded = keras.saving.load_model(file)

again = loaded(inputs)
for name, values in model(inputs).items():
    largest, difference = (float(keras.ops.max(keras.ops.abs(v))) for v in (values, values - again[name]))
    print(f"{name}: up to {largest:.3f}, the largest difference is {difference}")
