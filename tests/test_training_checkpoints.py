"""Checkpoints as training code leaves them: found by the tables under any names, and never guessed."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.formats.tensor_file import CheckpointError
from mobileclip_keras.converters.checkpoints.identify import (
    CheckpointFormat,
    UnknownCheckpointError,
    WrongVariantError,
    choose_variant,
    identify,
)
from mobileclip_keras.converters.checkpoints.values import value_problems
from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.conversion.mapping import MappingError
from mobileclip_keras.converters.conversion.to_torch import to_torch
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.weight_maps.audit import report
from tests.converter_support import (
    PATH,
    S0,
    SMALL_CLIP,
    TIMM,
    Shapes,
    arrays,
    as_torch,
    assert_same_bits,
    opened,
    place,
    read_all,
    write,
)

B = CheckpointFormat("vit_b16", "transformer_512", "apple", "train")
MASK = np.triu(np.full((77, 77), -np.inf, np.float32), 1)


def renamed(shapes: Shapes, change: Any) -> Shapes:
    return {change(name): shape for name, shape in shapes.items()}


NAMES = {
    "model.": lambda n: f"model.{n}",
    "clip_model.": lambda n: f"clip_model.{n}",
    "deep": lambda n: f"trainer.net.clip.{n}",
    "module.": lambda n: f"module.{n}",
    "compiled inside": lambda n: n.replace("_encoder.", "_encoder._orig_mod.").replace("visual.", "visual._orig_mod."),
    "several wrappers": lambda n: "_orig_mod.model.module." + n.replace(".0.", ".0._checkpoint_wrapped_module."),
    "towers of one's own": lambda n: n.replace("image_encoder.model.", "vision.").replace("text_encoder.", "words."),
}


@pytest.mark.parametrize("wanted", [S0, SMALL_CLIP, B], ids=str)
@pytest.mark.parametrize("names", NAMES)
def test_any_prefix_is_found_by_the_tables(names: str, wanted: CheckpointFormat) -> None:
    shapes = renamed(wanted.shapes, NAMES[names])
    checkpoint = opened(place(shapes))
    assert checkpoint.shapes == wanted.shapes and identify(checkpoint.shapes) == wanted
    assert bool(checkpoint.notes) == (shapes != wanted.shapes), checkpoint.notes
    for published, original in checkpoint.named.items():
        assert NAMES[names](published) == original


def test_prefixes_are_told() -> None:
    assert opened(place(renamed(S0.shapes, NAMES["deep"]))).notes == ['every name begins with "trainer.net.clip."']
    assert opened(place(renamed(S0.shapes, NAMES["compiled inside"]))).notes == [
        f'"_orig_mod." was taken out of {len(S0.shapes) - 1} names'
    ]
    assert opened(place(renamed(S0.shapes, NAMES["towers of one's own"]))).notes == [
        'the image tower stands under "vision."',
        'the text tower stands under "words."',
    ]


def test_a_prefix_does_not_hide_what_differs() -> None:
    shapes = dict(renamed(S0.shapes, NAMES["clip_model."]))
    del shapes["clip_model.text_encoder.projection_layer"]
    shapes["clip_model.text_encoder.final_layer_norm.bias"] = (7,)
    shapes["clip_model.image_encoder.model.network.7.9.gamma"] = (3,)
    for ignore_extra in (False, True):
        checkpoint = opened(place(shapes), ignore_extra=ignore_extra)
        with pytest.raises(UnknownCheckpointError) as error:
            identify(checkpoint.shapes, checkpoint.named)
        text = str(error.value)
        assert "  text_encoder.projection_layer of shape (512, 512), for text_encoder/projection/kernel" in text
        assert "  clip_model.text_encoder.final_layer_norm.bias has shape (7), but (512) is needed" in text
        assert "  clip_model.image_encoder.model.network.7.9.gamma of shape (3)" in text
        assert "--ignore-extra" not in text


def test_a_larger_network_is_not_taken_for_a_smaller_one() -> None:
    """Every tensor of mci0 is in mci1, with the same name and shape."""
    mci1 = CheckpointFormat("mci1", None, "timm", "train")
    assert identify(opened(place(mci1.shapes), ignore_extra=True).shapes) == mci1
    cut = dict(list(mci1.shapes.items())[:-1])
    assert all(cut[name] == shape for name, shape in list(TIMM.shapes.items())[:-1])
    with pytest.raises(UnknownCheckpointError, match="The nearest is mobileclip_s1"):
        identify(opened(place(cut), ignore_extra=True).shapes)


SETS = (
    place(S0.shapes, name="state_dict"),
    place(S0.shapes, name="state_dict_ema"),
    place({"a": (3,)}, name="optimizer"),
)


@pytest.mark.parametrize("wanted", [None, "state_dict", "state_dict_ema"])
def test_which_weights_is_chosen_and_told(wanted: str | None) -> None:
    checkpoint = opened(*SETS, weights=wanted)
    assert checkpoint.shapes == S0.shapes
    assert checkpoint.weights == (wanted or "state_dict")
    other = "state_dict" if wanted == "state_dict_ema" else "state_dict_ema"
    assert checkpoint.notes == [f"other weights in the file, left out: {other} (--weights NAME takes them)"]


@pytest.mark.parametrize("name", ["state_dict_ema", "ema", "model_ema", "weights/ema/state_dict", "anything"])
def test_the_only_weights_need_no_choice(name: str) -> None:
    checkpoint = opened(place({"a": (3,), "b": (2,)}), place(S0.shapes, name=name))
    assert checkpoint.shapes == S0.shapes and checkpoint.notes == [] and checkpoint.weights is None


def test_weights_of_a_name_that_there_is_not() -> None:
    with pytest.raises(CheckpointError) as error:
        opened(*SETS, weights="average")
    assert str(error.value) == (
        "weights.pt holds no weights 'average', or several. It holds state_dict, state_dict_ema."
    )


def test_two_models_in_one_dict() -> None:
    both = {**renamed(S0.shapes, lambda n: f"student.{n}"), **renamed(S0.shapes, lambda n: f"teacher.{n}")}
    with pytest.raises(CheckpointError) as error:
        opened(place(both, name="state_dict"))
    assert str(error.value) == (
        "weights.pt holds several sets of weights: state_dict/student, state_dict/teacher. "
        "Say which one with --weights NAME."
    )
    for wanted in ("teacher", "state_dict/teacher"):
        checkpoint = opened(place(both, name="state_dict"), weights=wanted)
        assert checkpoint.shapes == S0.shapes
        assert checkpoint.named["logit_scale"] == "teacher.logit_scale"
    averaged = {**renamed(S0.shapes, lambda n: f"model.{n}"), **renamed(S0.shapes, lambda n: f"ema_model.{n}")}
    checkpoint = opened(place(averaged, name="state_dict"))
    assert checkpoint.weights == "state_dict/model" and checkpoint.shapes == S0.shapes
    assert checkpoint.notes[-1].startswith("other weights in the file, left out: state_dict/ema_model")


def test_a_tower_that_is_registered_twice() -> None:
    """As `self.model = model; self.image_encoder = model.image_encoder` leaves it."""
    again = {name: shape for name, shape in S0.shapes.items() if name.startswith("image_encoder.")}
    checkpoint = opened(place({**again, **renamed(S0.shapes, lambda n: f"model.{n}")}))
    assert checkpoint.shapes == S0.shapes and checkpoint.weights == "model"
    assert checkpoint.notes[-1].startswith("other weights in the file, left out: the top of the file")


def test_quantised_layers_are_called_so() -> None:
    name = "text_encoder.transformer.1.pre_norm_ffn.1"
    shapes = {n: s for n, s in S0.shapes.items() if not n.startswith(name)}
    checkpoint = opened(place({**shapes, f"{name}.scale": (), f"{name}.zero_point": ()}))
    with pytest.raises(UnknownCheckpointError, match="Its layers were quantised"):
        identify(checkpoint.shapes)


HARMLESS = {
    "n_averaged": (np.array(5), "a counter in the file, left out: n_averaged"),
    "initted": (np.array([True]), "a counter in the file, left out: initted"),
    "text_encoder.embeddings.position_ids": (
        np.arange(77)[None],
        "the numbers of positions in the file, left out: text_encoder.embeddings.position_ids",
    ),
    "text_encoder.attn_mask": (MASK, "a causal mask in the file, left out: text_encoder.attn_mask"),
    "text_encoder.causal_mask": (MASK < 0, "a causal mask in the file, left out: text_encoder.causal_mask"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_carries_nothing_is_noted_and_left(name: str) -> None:
    value, note = HARMLESS[name]
    checkpoint = opened(place(B.shapes, {name: value}))
    assert checkpoint.shapes == B.shapes and checkpoint.notes == [note] and checkpoint.left == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_ids", np.arange(77)[None] + 1),
        ("attn_mask", np.tril(MASK.T)),
        ("attn_mask", MASK[:, ::-1]),
        ("attn_mask", np.random.default_rng(0).normal(size=(77, 77)).astype(np.float32)),
        ("decay", np.array(0.999)),
        ("class_counts", np.array([3, 4, 5])),
    ],
)
def test_what_carries_something_is_not(name: str, value: np.ndarray) -> None:
    checkpoint = opened(place(B.shapes, {name: value}))
    with pytest.raises(UnknownCheckpointError, match=rf"unexpected in the checkpoint:\n  {name}") as error:
        identify(checkpoint.shapes)
    assert str(error.value).endswith(
        "If these tensors stand beside the model and are no part of it, leave them out with --ignore-extra."
    )


def test_a_mask_decides_between_variants() -> None:
    text = CheckpointFormat(None, "transformer_512", "apple", "train")
    causal = opened(place(text.shapes, {"text_encoder.attn_mask": MASK}))
    assert causal.causal is True
    with pytest.raises(WrongVariantError, match="could be mobileclip_b or mobileclip_blt, which hold"):
        choose_variant(text, None, PATH, causal.causal)
    with pytest.raises(WrongVariantError, match="layout with a causal mask in it, not mobileclip_s2"):
        choose_variant(text, "s2", PATH, causal.causal)
    s2 = CheckpointFormat("mci2", "transformer_512", "apple", "train")
    with pytest.raises(WrongVariantError, match="but there is a causal mask in it, and no such variant has that"):
        choose_variant(s2, None, PATH, True)
    assert opened(place(text.shapes, {"text_encoder.attn_mask": np.zeros((77, 77))})).causal is False


HEAD = {"head.weight": (10, 512), "head.bias": (10,)}


def test_a_head_beside_the_towers_is_left_only_on_request() -> None:
    checkpoint = opened(place({**S0.shapes, **HEAD}))
    with pytest.raises(UnknownCheckpointError, match=r"2 tensors unexpected[\s\S]*--ignore-extra"):
        identify(checkpoint.shapes)
    checkpoint = opened(place({**S0.shapes, **HEAD}), ignore_extra=True)
    assert checkpoint.shapes == S0.shapes and checkpoint.left == tuple(HEAD)
    assert checkpoint.notes == ["2 tensors left out on request: head.weight, head.bias"]


@pytest.mark.parametrize("name", ["image_encoder.model.head.bias", "text_encoder.transformer.9.weight"])
def test_a_tensor_inside_a_tower_is_never_left(name: str) -> None:
    checkpoint = opened(place({**S0.shapes, name: (512,)}), ignore_extra=True)
    with pytest.raises(UnknownCheckpointError, match=f"unexpected in the checkpoint:\n  {name}"):
        identify(checkpoint.shapes)


def test_half_a_tower_is_no_extra() -> None:
    cut = {name: shape for name, shape in S0.shapes.items() if name != "text_encoder.projection_layer"}
    checkpoint = opened(place(cut), ignore_extra=True)
    with pytest.raises(UnknownCheckpointError, match=r"missing from the checkpoint:\n  text_encoder.projection_layer"):
        identify(checkpoint.shapes)


COUNTERS = [name for name in S0.shapes if name.endswith("num_batches_tracked")]


def test_counters_that_are_missing_are_zero() -> None:
    for gone in (COUNTERS, COUNTERS[:1]):
        checkpoint = opened(place({name: shape for name, shape in S0.shapes.items() if name not in gone}))
        assert checkpoint.shapes == S0.shapes
        assert {checkpoint.read(name).item() for name in gone} == {0}
        assert {checkpoint.dtypes[name] for name in gone} == {"int64"}
        assert "num_batches_tracked not in the file, taken as 0" in checkpoint.notes[0]


def test_counters_stored_as_floats() -> None:
    checkpoint = opened(place(S0.shapes, dict.fromkeys(COUNTERS, np.array(1000, np.float32))))
    value = checkpoint.read(COUNTERS[0])
    assert value.dtype == np.int64 and value == 1000
    assert checkpoint.notes == [f"{len(COUNTERS)} counters num_batches_tracked stored as float32"]
    assert not value_problems(checkpoint, S0.rows)
    values = dict(zip(COUNTERS, map(np.array, (0.5, np.nan, np.inf, 1e30, -2.5)), strict=False))
    problems = value_problems(opened(place(S0.shapes, values)), S0.rows)
    assert [problem.name for problem in problems] == list(values)
    assert report(problems).count("which is no whole number") == 5 and "holds 0.5, which" in report(problems)


def test_a_logit_scale_that_is_a_plain_number() -> None:
    shapes = {name: shape for name, shape in S0.shapes.items() if name != "logit_scale"}
    checkpoint = opened(place(shapes, logit_scale=4.5))
    assert checkpoint.shapes == S0.shapes and checkpoint.read("logit_scale") == 4.5
    assert checkpoint.notes == ["logit_scale is a plain number in the file"]
    with pytest.raises(UnknownCheckpointError, match="missing from the checkpoint:\n  logit_scale"):
        identify(opened(place(shapes)).shapes)


def test_objects_of_training_code_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "state_dict": {"a": torch.ones(2)},
        "args": argparse.Namespace(lr=1e-3, out=Path("/tmp")),
        "best": np.float64(0.7),
        "random": np.random.default_rng(0).normal(size=3),
    }
    made, before = [], torch.serialization.get_safe_globals()
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with monkeypatch.context() as patch:
            patch.setattr(argparse.Namespace, "__init__", lambda self, **_: made.append(self))
            checkpoint = open_checkpoint(tmp_path / "a.pt")
        assert checkpoint.shapes == {"a": (2,)} and not made
        assert checkpoint.notes == ['weights under "state_dict", beside args, best, random']
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_inspect_asks_what_convert_asks(tmp_path: Path) -> None:
    """Each of these was called sound by one of the two. Both tell all of them at once."""
    kernels = [(name, shape) for name, shape in TIMM.shapes.items() if len(shape) == 4]
    counters = [name for name in TIMM.shapes if name.endswith("num_batches_tracked")]
    bad: dict[str, tuple[str, torch.Tensor]] = {
        "holds quantised numbers (qint8)": (
            kernels[0][0],
            torch.quantize_per_tensor(torch.ones(kernels[0][1]), 0.1, 0, torch.qint8),
        ),
        "holds int8, not floats": (kernels[1][0], torch.ones(kernels[1][1], dtype=torch.int8)),
        "numbers are NaN": (kernels[2][0], torch.full(kernels[2][1], torch.nan)),
        "cannot be read": (kernels[3][0], torch.ones(kernels[3][1]).to_sparse()),
        "give a checkpoint of float16 or wider": (kernels[4][0], torch.ones(kernels[4][1]).to(torch.float8_e4m3fn)),
        "holds 1.5, which is no whole number": (counters[0], torch.tensor(1.5)),
        "does not fit int64": (counters[1], torch.tensor(2**63 + 5, dtype=torch.uint64)),
    }
    path = tmp_path / "mobileclip2_s0.pt"
    torch.save({**as_torch(arrays(TIMM)), **dict(bad.values())}, path)
    done = CliRunner().invoke(cli.app, ["inspect", str(path), "--json"])
    assert done.exit_code == 1 and done.stdout, done.stderr
    problems = json.loads(done.stdout)["problems"]
    for words, (name, _) in bad.items():
        assert any(words in line and name in line for line in problems), (words, problems)
    with pytest.raises(MappingError) as error:
        convert(path, tmp_path / "out", form="train", verify=False)
    assert str(error.value).splitlines()[1:] == problems


def test_the_choices_reach_the_folder(tmp_path: Path) -> None:
    wide = {name: t * 2 if t.is_floating_point() else t for name, t in as_torch(arrays(TIMM)).items()}
    content = {"model": as_torch(arrays(TIMM)), "ema": {**wide, "classes.weight": torch.ones(3, 512)}}
    torch.save(content, tmp_path / "mobileclip2_s0.pt")
    # An average with a head beside it cannot be converted, so it is no set to choose until it is left out.
    assert open_checkpoint(tmp_path / "mobileclip2_s0.pt").notes[0].startswith('weights under "model"')
    done = convert(
        tmp_path / "mobileclip2_s0.pt", tmp_path / "out", weights="ema", ignore_extra=True, form="train", verify=False
    )
    assert any("left out on request: classes.weight" in note for note in done.notes)
    source = json.loads((tmp_path / "out" / "conversion.json").read_text())["source"]
    assert source["weights"] == "ema" and source["left"] == ["classes.weight"]


POSITIONS = "image_encoder.model.pos_embed.pos_embed.pos_embed"


@pytest.mark.parametrize("size", [64, 384])
def test_position_embeddings_tell_the_image_size(size: int) -> None:
    patches = (size // 16) ** 2
    for prefix in ("", "model."):
        shapes = {prefix + n: s for n, s in {**B.shapes, POSITIONS: (1, 1, patches, 768)}.items()}
        found = identify(opened(place(shapes)).shapes)
        assert found.image_size == size and found.variants == B.variants
        assert found.shapes[POSITIONS] == (1, 1, patches, 768)
        row = next(row for row in found.rows if row.source == POSITIONS)
        assert row.target_shape == (1, patches, 768)
    large = CheckpointFormat("vit_l14", "transformer_768", "open_clip", "train")
    found = identify({**large.shapes, "visual.trunk.pos_embed": (1, 577, 1024)})
    assert found.image_size == 336


def test_position_embeddings_of_no_square_are_refused() -> None:
    for shape in ((1, 1, 195, 768), (1, 1, 196, 512), (1, 2, 196, 768), (1, 1, 0, 768)):
        with pytest.raises(UnknownCheckpointError, match=r"but \(1, 1, 196, 768\) is needed"):
            identify(opened(place({**B.shapes, POSITIONS: shape})).shapes)


@pytest.mark.nightly
def test_an_image_tower_is_converted_and_verified_at_its_size(tmp_path: Path) -> None:
    shapes = {**CheckpointFormat("vit_b16", None, "apple", "train").shapes, POSITIONS: (1, 1, 16, 768)}
    tensors = synthetic.state_dict(shapes.items(), 0)
    done = convert(write(tensors, tmp_path / "mobileclip_b.safetensors"), tmp_path / "out")
    assert done.verification is not None and done.verification.passed
    assert ImagePreprocessor.from_pretrained(done.folder).image_size == 64
    model = load_folder(done.folder)
    assert model.image_encoder.image_size == 64
    card = (done.folder / "README.md").read_text()
    assert "64 × 64 pixels, resized" in card and "and not of 224 × 224" in card
    to_torch(done.folder, "apple", tmp_path / "a.safetensors")
    assert_same_bits(read_all(tmp_path / "a.safetensors"), tensors)
