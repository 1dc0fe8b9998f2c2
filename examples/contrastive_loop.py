"""A contrastive training loop by hand, with tf.GradientTape: what `fit` does, to change as you like.

The image tower is a small one of one's own here, so that a CPU is done soon. For a real one, start from
MobileClipModel.from_pretrained("s2", form="train").
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

import mobileclip_keras as mk

keras.utils.set_random_seed(0)
names = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
colours = np.array(list(names.values()), "float32")
images = np.repeat(np.repeat(colours[:, None, None], 64, axis=1), 64, axis=2)
tokens = mk.Tokenizer()([f"a {name} square" for name in names])
batches = tf.data.Dataset.from_tensor_slices({"image": images, "text": tokens}).shuffle(4).batch(4).repeat(20)

backbone = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(32, 16, 16, activation="gelu")])
model = mk.MobileClipModel.from_variant("s0", image_backbone=backbone, image_size=64)
optimizer, schedule = mk.fine_tuning_recipe(steps=20, learning_rate=3e-4)
optimizer.build(model.trainable_variables)


@tf.function
def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """One step: both towers, the loss over all images with all texts, and the update."""
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        loss = mk.contrastive_loss(outputs["image_features"], outputs["text_features"], outputs["logit_scale"])
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


losses = [float(step(batch)) for batch in batches]
print(f"loss: {losses[0]:.3f} before, {losses[-1]:.3f} after {len(losses)} steps; guessing gives {np.log(4):.3f}")
print(f"learning rate: {float(schedule(0)):.1e} at first, {float(schedule(2)):.1e} at most")
