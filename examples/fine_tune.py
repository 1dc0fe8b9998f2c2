"""Fine-tuning: pairs of images and texts, and no loss to write: CLIP's contrastive one is the default.

The image tower is a small one of one's own here, so that a CPU is done in about a minute. For a real one, start from
MobileClipModel.from_pretrained("s2", form="train").
"""

import keras
import numpy as np

import mobileclip_keras as mk

keras.utils.set_random_seed(0)
names = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
colours = np.array(list(names.values()), "float32")
images = np.broadcast_to(colours[:, None, None], (len(names), 64, 64, 3))
pairs = {"image": images, "text": mk.Tokenizer()([f"a {name} square" for name in names])}

backbone = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(32, 16, 16, activation="gelu")])
model = mk.MobileClipModel.from_variant("s0", image_backbone=backbone, image_size=64)
# XLA would take minutes to compile the text tower for these few steps; JAX knows no other way.
compiled = "auto" if keras.backend.backend() == "jax" else False
model.compile(keras.optimizers.AdamW(3e-4), jit_compile=compiled)
history = model.fit(pairs, batch_size=len(names), epochs=50, verbose=0).history["loss"]
chance = np.log(len(names))
print(f"loss: {history[0]:.3f} before, {history[-1]:.3f} after {len(history)} steps; guessing gives {chance:.3f}")
