"""Ways to fine-tune: a large batch in chunks, LoRA, a teacher, and the mean of before and after.

The towers are s0's text tower and a small image tower, so that a CPU is done soon. For real ones, start from
MobileClipModel.from_pretrained("s2", form="train").
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import mobileclip_keras as mk

keras.utils.set_random_seed(0)
names = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
colours = np.array(list(names.values()), "float32")
images = np.repeat(np.repeat(colours[:, None, None], 64, axis=1), 64, axis=2)
pairs = {"image": images, "text": mk.Tokenizer()([f"a {name} square" for name in names])}
# XLA would take minutes to compile the text tower for these few steps; JAX knows no other way.
compiled = "auto" if keras.backend.backend() == "jax" else False


def new_model() -> mk.MobileClipModel:
    """A model that knows nothing yet."""
    backbone = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(32, 16, 16, activation="gelu")])
    return mk.MobileClipModel.from_variant("s0", image_backbone=backbone, image_size=64)


# A batch of four, of which two pairs are in memory at a time. Frozen norms make it the very step of the whole batch.
model = new_model()
model.freeze(norms=True)
optimizer, _ = mk.fine_tuning_recipe(steps=8, learning_rate=3e-4)
model.compile(optimizer, chunk_size=2, jit_compile=compiled)
history = model.fit(pairs, batch_size=4, epochs=8, verbose=0).history["loss"]
print(f"in chunks: loss {history[0]:.3f} before, {history[-1]:.3f} after")

# LoRA: adapters alone are trained, saved and, at the end, merged.
before = new_model()
before.set_weights(model.get_weights())
model.enable_lora(rank=4)
model.compile(keras.optimizers.Adam(1e-3), jit_compile=compiled)
history = model.fit(pairs, batch_size=4, epochs=3, verbose=0).history["loss"]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "adapters.safetensors"
    model.save_lora_weights(path)
    size = path.stat().st_size / 1e6
print(f"LoRA: loss {history[0]:.3f} before, {history[-1]:.3f} after; {size:.1f} MB of adapters")
model.merge_lora()

# A teacher: the student learns how alike the teacher finds each image and each text.
student = new_model()
distiller = mk.Distiller(student, [model], weight=0.75)
distiller.compile(keras.optimizers.AdamW(3e-4), jit_compile=compiled)
history = distiller.fit(pairs, batch_size=4, epochs=3, verbose=0).history["loss"]
print(f"distilled: loss {history[0]:.3f} before, {history[-1]:.3f} after")

# Half of what was tuned, half of what was there before.
between = mk.interpolate(before, model, alpha=0.5)
print(f"between: logit scale {float(keras.ops.convert_to_numpy(between.scale())):.2f}")
