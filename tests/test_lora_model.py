"""LoRA for a whole model: `enable_lora`, its files, `merge_lora`."""

from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mobileclip_keras.keras_models.layers.adapters import adapters_of
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.copying import adapted_layers, copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.training.adapter_file import LoraError
from mobileclip_keras.keras_models.training.lora import adaptable_layers
from mobileclip_keras.verify.data import synthetic

from .small import small_model
from .support import nightly_on

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

TEXT = "small_mct_of_64_words"
PAIRS = {"image": synthetic.images(4, 64, seed=0), "text": synthetic.tokens(4, seed=0) % 64}


def features(model: MobileClipModel) -> np.ndarray:
    outputs = model(PAIRS, training=False)
    return np.concatenate([keras.ops.convert_to_numpy(outputs[f"{key}_features"]) for key in PAIRS])


def adapted(rank: int = 2, alpha: float | None = 3) -> MobileClipModel:
    """A model whose adapters are far from zero."""
    model = small_model("small_vit", TEXT, variant="mobileclip_s0")
    model.enable_lora(rank, alpha)
    random = np.random.default_rng(0)
    for layer in adapted_layers(model):
        for variable in adapters_of(layer):
            variable.assign(random.normal(0, 0.2, variable.shape))
    return model


def values(model: MobileClipModel) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.weights]


@nightly_on("jax")
def test_only_adapters_of_attention_and_feed_forward_are_trained() -> None:
    model = small_model("small_vit", TEXT)
    before = features(model)
    model.enable_lora(2)
    assert np.array_equal(features(model), before)
    names = {layer.path.split("/", 1)[1] for layer in adapted_layers(model)}
    assert len(adapted_layers(model)) == len(adaptable_layers(model)) == 2 * 4 + 4 + 2
    assert {name.rsplit("/", 1)[-1] for name in names} == {"qkv", "proj", "fc1", "fc2"}
    assert {v.name for v in model.trainable_variables} == {"lora_kernel_a", "lora_kernel_b"}
    old = {id(v): np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    model.fit(PAIRS, verbose=0)
    moved = [v for v in model.weights if not np.array_equal(keras.ops.convert_to_numpy(v), old[id(v)])]
    assert {v.name for v in moved} == {"lora_kernel_b"} and len(moved) == 14  # A waits for B, which was zero
    assert np.abs(features(model) - before).max() > 1e-4


@nightly_on("jax")
def test_adapters_are_saved_alone_and_merged(tmp_path: Path) -> None:
    model = adapted()
    expected = features(model)
    model.save_lora_weights(tmp_path / "adapters.safetensors")
    tensors = load_file(tmp_path / "adapters.safetensors")
    assert len(tensors) == 3 * 14 and sum(map(np.size, tensors.values())) < 0.3 * model.count_params()
    for other in (small_model("small_vit", TEXT, variant="mobileclip_s0"), adapted(alpha=7)):
        for layer in adapted_layers(other):
            adapters_of(layer)[0].assign(np.zeros(adapters_of(layer)[0].shape))
        other.load_lora_weights(tmp_path / "adapters.safetensors")
        assert np.array_equal(features(other), expected)
        assert {v.name for v in other.trainable_variables} == {"lora_kernel_a", "lora_kernel_b"}
    model.merge_lora()
    plain = small_model("small_vit", TEXT)
    assert np.abs(features(model) - expected).max() < 1e-5
    assert [v.name for v in model.weights] == [v.name for v in plain.weights]
    assert [v.trainable for v in model.weights] == [v.trainable for v in plain.weights]
    assert np.abs(features(copy_model(model)) - expected).max() < 1e-5
    assert np.abs(features(model.reparameterize()) - expected).max() < 1e-4
    model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    model.fit(PAIRS, verbose=0)
    model.enable_lora(1)


def test_what_cannot_be_adapted_is_refused_in_one_sentence() -> None:
    with to_be_overwritten():
        model = small_model(None, TEXT)
        for rank in (0, -1, 17, 2.0, True, None):
            with pytest.raises(LoraError, match=r"a whole number from 1 to 16 for this model; got "):
                model.enable_lora(rank)
        assert all(v.trainable or "moving" in v.name or "tracked" in v.name for v in model.weights)
        with pytest.raises(LoraError, match="no LoRA adapters to merge"):
            model.merge_lora()
        model.enable_lora(16)
        with pytest.raises(LoraError, match="has LoRA adapters already"):
            model.enable_lora(2)
        quantized = small_model(None, TEXT)
        quantized.quantize("int8")
        with pytest.raises(LoraError, match="weights that are not quantised"):
            quantized.enable_lora(2)
        with pytest.raises(LoraError, match="train form, and this model is in the inference form"):
            small_model(None, TEXT).reparameterize().enable_lora(2)


def test_files_of_others_and_damaged_files_change_nothing(tmp_path: Path) -> None:
    model = small_model(None, TEXT, variant="mobileclip_s0")
    donor = small_model(None, TEXT, variant="mobileclip_s0")
    donor.enable_lora(2)
    good = tmp_path / "good.safetensors"
    donor.save_lora_weights(good)
    kept = {"format": "mobileclip_keras.lora", "version": "1", "variant": "mobileclip_s0"}
    tensors = load_file(good)
    name = next(name for name in tensors if name.endswith("lora_a"))
    content = good.read_bytes()
    variants = {
        "missing": (None, "There is no file"),
        "cut": (content[:-9], "is damaged"),
        "noise": (b"no safetensors at all", "is damaged"),
        "foreign": ((tensors, {"format": "pt"}), "holds no LoRA adapters for this package"),
        "newer": ((tensors, {**kept, "version": "2"}), "newer version"),
        "other variant": ((tensors, {**kept, "variant": "mobileclip_b"}), "made for mobileclip_b, and this model is"),
        "half": (({n: t for n, t in tensors.items() if n != name}, kept), "no whole adapters"),
        "infinite": (({**tensors, name: np.full_like(tensors[name], np.inf)}, kept), "not finite"),
        "other shape": (({**tensors, name: tensors[name][:-1]}, kept), "made for another model"),
        "other layer": (({f"image_encoder/{n}": t for n, t in tensors.items()}, kept), "made for another model"),
    }
    before, count = values(model), len(model.weights)
    for case, (written, message) in variants.items():
        path = tmp_path / f"{case}.safetensors"
        if isinstance(written, bytes):
            path.write_bytes(written)
        elif written is not None:
            save_file(written[0], path, metadata=written[1])
        with pytest.raises(LoraError, match=message):
            model.load_lora_weights(path)
        assert len(model.weights) == count, case
    assert all(np.array_equal(one, other) for one, other in zip(before, values(model), strict=True))
    with pytest.raises(LoraError, match="adapters of other layers or of another rank"):
        wider = small_model(None, TEXT, variant="mobileclip_s0")
        wider.enable_lora(3)
        wider.load_lora_weights(good)
    with pytest.raises(LoraError, match="no LoRA adapters to save"):
        model.save_lora_weights(tmp_path / "none.safetensors")
    with pytest.raises(LoraError, match=r"must end in \.safetensors"):
        donor.save_lora_weights(tmp_path / "adapters.h5")
