"""Eight virtual devices take the step that one takes: each finds the negatives of all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]

# What runs in a process of its own, because JAX counts its devices once.
PROGRAM = """
import json
import jax
import keras
import numpy as np
from mobileclip_keras.keras_models import architectures
from mobileclip_keras.verify.data import synthetic
from tests import small
from tests.training_steps import difference, step

architectures.IMAGE_TOWERS |= small.KNOWN_IMAGE_TOWERS
architectures.TEXT_TOWERS |= small.KNOWN_TEXT_TOWERS
pairs = {"image": synthetic.images(16, 64, seed=0)[:16], "text": synthetic.tokens(16, seed=0)[:16] % 64}
model = small.small_model("small_vit", "small_mct_of_64_words", "float64")
alone = step(model, pairs=pairs)
fixed = small.small_model("small_vit", "small_mct_of_64_words", "float64")
fixed.freeze(norms=True)
fixed_alone = step(fixed, pairs=pairs)
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
found = {"devices": jax.device_count(), "whole": difference(alone, step(model, pairs=pairs))}
print(json.dumps({**found, "chunks": difference(fixed_alone, step(fixed, 8, pairs=pairs))}))
"""


@pytest.mark.nightly
@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes on JAX alone")
def test_loss_and_gradients_are_those_of_one_device() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["devices"] == 8
    # Learning batch norms, too: their statistics are of all devices.
    assert found["whole"] < 1e-12 and found["chunks"] < 1e-12
