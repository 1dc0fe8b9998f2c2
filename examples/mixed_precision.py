"""Mixed precision: computing in 16 bits, with weights in 32. It is for GPUs; most CPUs gain nothing."""

import keras
import numpy as np

import mobileclip_keras as mk

images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype("float32")

full = mk.MobileClipModel.from_variant("s0", towers="image")
half = mk.MobileClipModel.from_variant("s0", towers="image", dtype="mixed_bfloat16")
half.set_weights(full.get_weights())

features = full.encode_image(images)
rounded = keras.ops.cast(half.encode_image(images), "float32")
cosines = keras.ops.sum(features * rounded, axis=-1)
print("dtype of weights:", half.weights[0].dtype, "· of features:", half.compute_dtype)
print("cosine similarity to float32:", keras.ops.convert_to_numpy(cosines).round(4))
