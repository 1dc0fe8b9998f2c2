"""The PyTorch side of the comparisons, and the synthetic checkpoints, against the original code's outputs."""

import csv
import functools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.verify.torch_models import (
    MissingPackageError,
    ReferenceMismatchError,
    TorchReference,
    build_reference,
)
from mobileclip_keras.verify.torch_models.keys import mci_to_timm, text_to_open_clip, vit_to_timm

DATA = Path(__file__).parent / "reference_data"
TOLERANCE = 1e-10

# What each file of reference_data holds: image tower, text tower, image size.
TOWERS: dict[str, tuple[str, str | None, int]] = {
    "apple__mobileclip_s0": ("mci0", "mct", 256),
    "apple__mobileclip_s1": ("mci1", "transformer_512", 256),
    "apple__mobileclip_s2": ("mci2", "transformer_512", 256),
    "apple__mobileclip_b": ("vit_b16", "transformer_512_causal", 224),
    "open_clip__MobileCLIP-S1": ("mci1", "transformer_512", 256),
    "open_clip__MobileCLIP-S2": ("mci2", "transformer_512", 256),
    "open_clip__MobileCLIP-B": ("vit_b16", "transformer_512_causal", 224),
    "open_clip__MobileCLIP2-S0": ("mci0", "transformer_512", 256),
    "open_clip__MobileCLIP2-S2": ("mci2", "transformer_512", 256),
    "open_clip__MobileCLIP2-B": ("vit_b16", "transformer_512_causal", 224),
    "open_clip__MobileCLIP2-S3": ("mci3", "transformer_768", 256),
    "open_clip__MobileCLIP2-S4": ("mci4", "transformer_768", 256),
    "open_clip__MobileCLIP2-L-14": ("vit_l14", "transformer_768", 224),
    "timm__fastvit_mci0": ("mci0", None, 256),
    "timm__fastvit_mci1": ("mci1", None, 256),
    "timm__fastvit_mci2": ("mci2", None, 256),
    "timm__fastvit_mci3": ("mci3", None, 256),
    "timm__fastvit_mci4": ("mci4", None, 256),
    "timm__vit_base_mci_224": ("vit_b16", None, 224),
}
LARGE = {"mci4", "vit_l14"}
S0, B = "apple__mobileclip_s0", "apple__mobileclip_b"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads spin while they wait: fewer free cores than threads make it many times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def manifest(name: str) -> list[tuple[str, tuple[int, ...]]]:
    with open(DATA / "manifests" / f"{name}.tsv", newline="") as file:
        return [
            (key, tuple(map(int, shape.split("x"))) if shape else ())
            for key, _, shape in csv.reader(file, delimiter="\t")
        ]


@functools.lru_cache(maxsize=1)
def state(name: str) -> dict[str, np.ndarray]:
    return synthetic.state_dict(manifest(name), seed=0)


def hollow(name: str) -> dict[str, np.ndarray]:
    """A checkpoint's names and shapes over a single stored zero."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in manifest(name)}


def build(name: str, tensors: dict[str, np.ndarray], **options) -> TorchReference:
    image_tower, text_tower, _ = TOWERS[name]
    return build_reference(image_tower, text_tower, tensors, name.split("__")[0], **options)


@functools.lru_cache(maxsize=1)
def reference(name: str) -> TorchReference:
    """Tests that share a checkpoint stand next to each other in this file, so that one is kept at a time."""
    return build(name, state(name))


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "golden" / f"{name}.npz") as file:
        return dict(file)


def images(name: str) -> np.ndarray:
    return synthetic.images(4, TOWERS[name][2], seed=0)


TOKENS = synthetic.tokens(4, seed=0)


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """A commit's run has one mci tower and one ViT; the large ones also need memory."""
    if name in (S0, B):
        return [pytest.mark.real]
    return [pytest.mark.real, pytest.mark.nightly, *([pytest.mark.large] if TOWERS[name][0] in LARGE else [])]


def test_every_reference_file_is_used() -> None:
    assert {path.stem for path in (DATA / "golden").iterdir()} == set(TOWERS)
    assert {path.stem for path in (DATA / "manifests").iterdir()} == set(TOWERS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=marks_of(name)) for name in TOWERS],
)
def test_float64_gives_the_outputs_of_the_original_code(name: str) -> None:
    model, expected = reference(name), golden(name)
    image = model.encode_image(images(name))
    assert image.dtype == np.float64
    assert error(image, expected["image_features"]) < TOLERANCE
    if TOWERS[name][1] is None:
        with pytest.raises(ValueError, match="without its text tower"):
            model.encode_text(TOKENS)
        return

    text = model.encode_text(TOKENS)
    assert text.dtype == np.float64
    assert error(text, expected["text_features"]) < TOLERANCE
    assert model.logit_scale() == pytest.approx(float(expected["logit_scale"]), rel=1e-15)
    unit_image, unit_text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    assert error(model.logit_scale() * unit_image @ unit_text.T, expected["logits"]) < TOLERANCE


# --- S0: mci0, and the text tower that is this project's own ---


def test_mci_stages_lead_to_the_features() -> None:
    model = reference(S0)
    wide = images(S0)[:2, :128]
    stages = model.image_stages(wide)
    assert {name: array.shape for name, array in stages.items()} == {
        "stem": (2, 32, 64, 64),
        "stage_0": (2, 32, 64, 64),
        "stage_1": (2, 16, 32, 128),
        "stage_2": (2, 8, 16, 256),
        "stage_3": (2, 4, 8, 512),
        "final_conv": (2, 4, 8, 1024),
        "features": (2, 512),
    }
    projection = synthetic.tensor(0, "image_encoder.model.head.proj", (1024, 512))
    assert error(stages["final_conv"].mean((1, 2)) @ projection, stages["features"]) < TOLERANCE
    assert error(stages["features"], model.encode_image(wide)) < TOLERANCE


def test_text_stages_lead_from_the_embeddings_to_the_features() -> None:
    model, tensors = reference(S0), state(S0)
    stages = model.text_stages(TOKENS)
    assert list(stages) == ["embeddings", *(f"block_{i}" for i in range(6)), "norm", "features"]
    positions = tensors["text_encoder.positional_embedding.pos_embed.pos_embed"][0, 0]
    words = tensors["text_encoder.embedding_layer.weight"][TOKENS]
    assert error(stages["embeddings"], words.astype(np.float64) + positions) < TOLERANCE
    last = stages["norm"][np.arange(4), TOKENS.argmax(-1)]
    assert error(last @ tensors["text_encoder.projection_layer"], stages["features"]) < TOLERANCE
    assert error(stages["features"], golden(S0)["text_features"]) < TOLERANCE


def test_batches_do_not_change_the_outputs() -> None:
    model, expected = reference(S0), golden(S0)
    assert error(model.encode_image(images(S0)[:3], batch_size=2), expected["image_features"][:3]) < TOLERANCE
    assert error(model.encode_text(TOKENS.astype(np.int32), batch_size=3), expected["text_features"]) < TOLERANCE


def test_a_copy_in_float32_errs_as_pytorch_does_and_leaves_the_original_alone() -> None:
    model, expected = reference(S0), golden(S0)
    single = model.to("float32")
    image = single.encode_image(images(S0))
    assert image.dtype == np.float32
    off_by = float(np.abs(image - expected["image_features"]).max())
    recorded = float(expected["torch_float32_image_error"])
    assert recorded / 4 < off_by < recorded * 4
    assert single.text_stages(TOKENS)["norm"].dtype == np.float32
    assert error(model.encode_text(TOKENS), expected["text_features"]) < TOLERANCE
    assert error(single.to("float64").encode_text(TOKENS), expected["text_features"]) < TOLERANCE


def test_folding_keeps_the_function_in_float64_and_costs_accuracy_in_float32() -> None:
    model, expected = reference(S0), golden(S0)
    folded = model.reparameterize()
    assert error(folded.encode_image(images(S0)), expected["image_features"]) < TOLERANCE
    assert error(folded.encode_text(TOKENS), expected["text_features"]) < TOLERANCE
    folded_in_float32 = model.to("float32").reparameterize().to("float64")
    assert 1e-8 < error(folded_in_float32.encode_image(images(S0)), expected["image_features"]) < 1e-5
    assert 1e-9 < error(folded_in_float32.encode_text(TOKENS), expected["text_features"]) < 1e-5


def folded_names(names: list[str]) -> list[str]:
    """Apple's names after folding: what a folded part had inside it gives way to one convolution."""
    folded: dict[str, None] = {}
    for name in names:
        path = re.sub(r"\.token_mixer\.(mixer|norm|layer_scale)\b.*", ".token_mixer.reparam_conv", name)
        path = re.sub(r"\.(lkb_origin|small_conv)\..*", ".lkb_reparam", path)
        path = re.sub(r"\.(rbr_\w+|pe)\..*", ".reparam_conv", path)
        new = [name] if path == name else [f"{path}.weight", f"{path}.bias"]
        folded |= dict.fromkeys(new)
    return list(folded)


def test_folded_files_load_in_both_layouts() -> None:
    folded, batch = reference(S0).reparameterize(), images(S0)[:1]
    image = {name: tensor.numpy() for name, tensor in folded._image.state_dict().items()}
    text = {f"text_encoder.{name}": tensor.numpy() for name, tensor in folded._text.state_dict().items()}

    from_timm = build_reference("mci0", None, image, "timm")
    assert np.array_equal(from_timm.encode_image(batch), folded.encode_image(batch))

    prefix = "image_encoder.model."
    names = folded_names([name for name, _ in manifest(S0)])
    assert len(names) == 389  # as many as Apple's own folding leaves
    apple = text | {"logit_scale": np.array(0.0), f"{prefix}head.proj": image["head.fc.weight"].T}
    for name in (name for name in names if name.startswith(prefix) and name not in apple):
        (in_timm,) = mci_to_timm({name.removeprefix(prefix): np.zeros(1)})
        apple[name] = image[in_timm]
    assert set(apple) == set(names)
    from_apple = build(S0, apple)
    assert error(from_apple.encode_image(batch), folded.encode_image(batch)) < TOLERANCE
    assert np.array_equal(from_apple.encode_text(TOKENS), folded.encode_text(TOKENS))


# --- B: the ViT, and what Apple and timm do differently with the same tensors ---


@pytest.mark.nightly  # by day the ViT's features are compared
def test_vit_stages_lead_from_the_embeddings_to_the_features() -> None:
    model = reference(B)
    stages = model.image_stages(images(B)[:1])
    assert list(stages) == ["embeddings", *(f"block_{i}" for i in range(12)), "norm", "features"]
    assert stages["embeddings"].shape == stages["norm"].shape == (1, 197, 768)
    class_token = synthetic.tensor(0, "image_encoder.model.cls_token", (1, 1, 768))
    assert np.array_equal(stages["embeddings"][:, :1], class_token)  # has no position
    projection = synthetic.tensor(0, "image_encoder.model.classifier.proj", (768, 512))
    assert error(stages["norm"][:, 0] @ projection, stages["features"]) < TOLERANCE
    assert error(stages["features"], golden(B)["image_features"][:1]) < TOLERANCE


def test_text_stages_of_open_clip() -> None:
    stages = reference(B).text_stages(TOKENS)
    assert list(stages) == ["embeddings", *(f"block_{i}" for i in range(12)), "norm", "features"]
    positions = synthetic.tensor(0, "text_encoder.positional_embedding.pos_embed.pos_embed", (1, 1, 77, 512))
    words = synthetic.tensor(0, "text_encoder.embedding_layer.weight", (49408, 512))[TOKENS]
    assert error(stages["embeddings"], words.astype(np.float64) + positions[0]) < TOLERANCE
    assert error(stages["features"], golden(B)["text_features"]) < TOLERANCE


def test_the_same_tensors_as_apple_and_as_timm_computes() -> None:
    """Both the epsilon and the padding show, and each can be asked for in the other's layout."""
    prefix = "image_encoder.model."
    apple = {name: array for name, array in state(B).items() if name.startswith(prefix)}
    timm = vit_to_timm({name.removeprefix(prefix): array for name, array in apple.items()})
    expected = golden(B)["image_features"][:1]

    def features(tensors: dict[str, np.ndarray], layout: str, **options: float) -> np.ndarray:
        return build_reference("vit_b16", None, tensors, layout, **options).encode_image(images(B)[:1])

    assert error(features(timm, "timm", image_norm_epsilon=1e-5, image_stem_padding=1), expected) < TOLERANCE
    assert 1e-6 < error(features(timm, "timm", image_stem_padding=1), expected) < 1e-3
    as_timm = features(timm, "timm")
    assert error(as_timm, expected) > 1e-2
    assert np.array_equal(features(apple, "apple", image_norm_epsilon=1e-6, image_stem_padding=0), as_timm)


# --- What needs no weights ---


@pytest.mark.parametrize("name", [S0, "apple__mobileclip_s1", "apple__mobileclip_s2", B])
def test_names_and_shapes_as_timm_converts_them(name: str) -> None:
    import timm
    import torch
    from timm.models.fastvit import checkpoint_filter_fn as filter_fastvit
    from timm.models.vision_transformer_hybrid import checkpoint_filter_fn as filter_vit

    fastvit = TOWERS[name][0].startswith("mci")
    with torch.device("meta"):
        model = timm.create_model("fastvit_mci0" if fastvit else "vit_base_mci_224", num_classes=512)
        tensors = {key: torch.empty(shape) for key, shape in manifest(name)}
        expected = (filter_fastvit if fastvit else filter_vit)(tensors, model)
    prefix = "image_encoder.model."
    image = {key.removeprefix(prefix): a for key, a in hollow(name).items() if key.startswith(prefix)}
    actual = (mci_to_timm if fastvit else vit_to_timm)(image)
    assert {key: a.shape for key, a in actual.items()} == {key: tuple(t.shape) for key, t in expected.items()}


def test_text_names_and_shapes_as_open_clip_converts_them() -> None:
    import torch
    from open_clip.convert import convert_mobile_clip_state_dict

    name = "apple__mobileclip_s1"
    tensors = {key: torch.empty(shape, device="meta") for key, shape in manifest(name)}
    trunk = SimpleNamespace(head=SimpleNamespace())
    expected = convert_mobile_clip_state_dict(SimpleNamespace(visual=SimpleNamespace(trunk=trunk)), tensors)
    text = {key.removeprefix("text_encoder."): a for key, a in hollow(name).items() if key.startswith("text_encoder.")}
    actual = {f"text.{key}": a.shape for key, a in text_to_open_clip(text).items()}
    assert actual == {key: tuple(t.shape) for key, t in expected.items() if key.startswith("text.")}


@pytest.mark.parametrize(
    "broken",
    [
        "image_encoder.model.network.6.pe.bias",
        "image_encoder.model.head.proj",
        "text_encoder.projection_layer",
    ],
)
@pytest.mark.parametrize("way", ["missing", "misshapen", "misnamed"])
def test_a_checkpoint_that_does_not_fit_is_refused(broken: str, way: str) -> None:
    tensors = hollow(S0)
    array = tensors.pop(broken)
    if way == "misshapen":
        tensors[broken] = np.zeros((*array.shape[:-1], array.shape[-1] + 1), np.float32)
    elif way == "misnamed":
        tensors |= {broken: array, f"{broken}.spare": array}
    with pytest.raises(ReferenceMismatchError, match="This checkpoint does not fit"):
        build(S0, tensors, dtype="float32")


def test_a_tensor_of_neither_tower_is_refused() -> None:
    with pytest.raises(ReferenceMismatchError, match=r"decoder\.weight"):
        build(S0, hollow(S0) | {"decoder.weight": np.zeros(3)}, dtype="float32")


def test_another_variants_checkpoint_is_refused() -> None:
    with pytest.raises(ReferenceMismatchError, match="fastvit_mci0"):
        build_reference("mci0", None, hollow("timm__fastvit_mci1"), "timm", dtype="float32")


def test_unknown_towers_and_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no image tower 'mci9'.*mci0, mci1"):
        build_reference("mci9", None, {}, "timm")
    with pytest.raises(ValueError, match=r"no text tower 'bert'.*transformer_512"):
        build_reference(None, "bert", {}, "apple")
    with pytest.raises(ValueError, match=r"unknown layout 'keras'.*apple, open_clip, timm"):
        build_reference(None, None, {}, "keras")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_logit_scale_is_clamped(shape: tuple[int, ...]) -> None:
    def scale(value: float) -> float:
        tensors = {"logit_scale": np.full(shape, math.log(value), np.float64)}
        return build_reference(None, None, tensors, "open_clip").logit_scale()

    assert scale(99.0) == pytest.approx(99.0, rel=1e-14)
    assert scale(101.0) == 100.0
    with pytest.raises(ValueError, match="no logit scale"):
        build_reference(None, None, {}, "timm").logit_scale()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r'timm and open_clip.*"mobileclip-keras\[verify\]"'):
        build_reference("mci0", None, {}, "timm")


def test_importing_the_package_imports_no_pytorch() -> None:
    script = (
        "import sys, mobileclip_keras.verify.data.synthetic, mobileclip_keras.verify.torch_models as t;"
        "assert t.build_reference;"
        "print([name for name in ('torch', 'timm', 'open_clip') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_synthetic_tensors_have_the_published_types() -> None:
    with open(DATA / "manifests" / "timm__fastvit_mci0.tsv", newline="") as file:
        types = {name: dtype for name, dtype, _ in csv.reader(file, delimiter="\t")}
    tensors = state("timm__fastvit_mci0")
    assert {name: str(array.dtype) for name, array in tensors.items()} == types
    assert {name: array.shape for name, array in tensors.items()} == dict(manifest("timm__fastvit_mci0"))
    other = synthetic.state_dict(manifest("timm__fastvit_mci0"), seed=1)
    assert not np.array_equal(tensors["head.fc.weight"], other["head.fc.weight"])
