"""The tables: regenerated, audited, matched with every published list of tensors, and broken on purpose."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.store.variables import variables_by_name
from mobileclip_keras.weight_maps import generate
from mobileclip_keras.weight_maps.audit import Problem, audit, report
from mobileclip_keras.weight_maps.axes import source_shape, to_source, to_target
from mobileclip_keras.weight_maps.generate import EMBED_DIMS
from mobileclip_keras.weight_maps.table import (
    LAYOUTS,
    NONE,
    TABLES,
    Row,
    model_rows,
    read_rows,
    tower_rows,
    write_rows,
)

from .support import REFERENCES, get_variant, manifest

FILES = {path.name: read_rows(path) for path in sorted(TABLES.glob("*.tsv"))}
ROWS = [row for rows in FILES.values() for row in rows]
S0_ROWS = tower_rows("mci0", "apple", "train")


def sources(rows: tuple[Row, ...]) -> dict[str, tuple[int, ...]]:
    return {row.source: row.source_shape for row in rows if row.source != NONE}


def variable_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(variable.shape) for name, variable in variables_by_name(model).items()}


def targets(rows: tuple[Row, ...]) -> dict[str, tuple[int, ...]]:
    return {row.target: row.target_shape for row in rows}


def problems(rows: list[Row]) -> str:
    """What the audit says of broken rows, where a checkpoint and a model are as the true table of mci0 has them."""
    return report(audit(rows, sources(S0_ROWS), targets(S0_ROWS)))


def index(source: str) -> int:
    """Where the true table of mci0 has a tensor."""
    (found,) = (i for i, row in enumerate(S0_ROWS) if row.source == f"image_encoder.model.{source}")
    return found


# --- The files ---


def test_tables_generated_anew_are_the_committed_ones(tmp_path: Path) -> None:
    generate.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (TABLES / name).read_bytes(), name


def test_generating_removes_tables_that_are_no_more(tmp_path: Path) -> None:
    (tmp_path / "mci9.apple.train.tsv").touch()
    generate.main(tmp_path)
    assert not (tmp_path / "mci9.apple.train.tsv").exists()


def test_rows_are_written_and_read_back(tmp_path: Path) -> None:
    rows = (Row("a", (), "int64", "->", "b", ()), Row(NONE, (3,), "float32", "c -> c", "d", (3,), "zeros"))
    write_rows(tmp_path / "t.tsv", rows)
    assert read_rows(tmp_path / "t.tsv") == rows
    (tmp_path / "t.tsv").write_text("name\tshape\n")
    with pytest.raises(ValueError, match=r"t\.tsv does not begin with the columns of a weight table"):
        read_rows(tmp_path / "t.tsv")


def test_a_layout_without_the_tower_has_no_table() -> None:
    with pytest.raises(LookupError, match=r"The apple layout has no mci3\."):
        tower_rows("mci3", "apple", "train")
    with pytest.raises(LookupError, match=r"The open_clip layout has no mct\."):
        model_rows("mci0", "mct", "open_clip", "reparameterized")


@pytest.mark.parametrize("name", FILES)
def test_no_table_contradicts_itself(name: str) -> None:
    rows = FILES[name]
    assert audit(rows, sources(rows), targets(rows)) == []


def test_source_shapes_follow_from_axes_and_target_shapes() -> None:
    for row in ROWS:
        assert source_shape(row.axes, row.target_shape) == row.source_shape, row


def test_every_axes_text_in_use_is_undone_bit_for_bit() -> None:
    examples = {row.axes: row for row in sorted(ROWS, key=lambda row: -np.prod(row.target_shape))}
    assert len(examples) >= 10
    generator = np.random.default_rng(0)
    for row in examples.values():
        # Distinct values, so that no permutation passes for another; a few of them NaN by their bits.
        bits = generator.permutation(np.arange(np.prod(row.source_shape), dtype=np.uint32) + 0x7F7FFFF0)
        array = bits.view(np.float32).reshape(row.source_shape)
        there = to_target(row.axes, array, row.target_shape)
        assert there.shape == row.target_shape
        back = to_source(row.axes, there)
        assert back.shape == row.source_shape
        assert back.tobytes() == array.tobytes(), row.axes


def test_a_grouped_axis_is_split_as_the_depthwise_convolution_has_it() -> None:
    """Output channel c * multiplier + m comes from input channel c."""
    kernel = np.arange(6 * 4, dtype=np.float32).reshape(6, 1, 2, 2)
    ours = to_target("(c m) 1 h w -> h w c m", kernel, (2, 2, 3, 2))
    assert np.array_equal(ours[:, :, 2, 1], kernel[5, 0])


# --- Against published lists of tensors, and against real models ---


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_published_tensor_has_its_row(reference: str) -> None:
    variant, layout = get_variant(REFERENCES[reference]), reference.split("__")[0]
    text_tower = None if layout == "timm" else variant.text_tower
    rows = model_rows(variant.image_tower, text_tower, layout, "train")
    listed = {row.source: (row.dtype, row.source_shape) for row in rows if row.source != NONE}
    assert listed == manifest(reference)


def tower_of(table: str) -> str:
    return table.split(".")[0]


FORMS_OF_TOWERS = sorted({(name.split(".")[0], name.split(".")[2]) for name in FILES})


@pytest.mark.parametrize(("tower", "form"), FORMS_OF_TOWERS)
def test_rows_of_every_layout_are_the_variables_of_the_keras_model(tower: str, form: str) -> None:
    with to_be_overwritten():
        if tower in IMAGE_TOWERS:
            encoder = MobileClipImageEncoder(tower, EMBED_DIMS[tower], form=form, projection_bias=True)
            model = MobileClipModel(image_encoder=encoder)
        else:
            model = MobileClipModel(text_encoder=MobileClipTextEncoder(tower, EMBED_DIMS[tower], form=form))
    variables = variable_shapes(model)
    tables = {name: rows for name, rows in FILES.items() if name.startswith(f"{tower}.") and f".{form}." in name}
    assert tables
    for name, rows in tables.items():
        assert report(audit(rows, sources(rows), variables)) == "", name


def test_every_tower_has_a_table() -> None:
    towers = {name.removesuffix("_causal") for name in (*IMAGE_TOWERS, *TEXT_TOWERS)}
    assert towers == {tower_of(name) for name in FILES}
    assert {name.split(".")[1] for name in FILES} == set(LAYOUTS)


# --- Broken on purpose: each break has its own words ---


def test_a_deleted_row() -> None:
    at = index("network.0.1.layer_scale")
    assert problems([*S0_ROWS[:at], *S0_ROWS[at + 1 :]]) == (
        "1 tensor unexpected in the checkpoint:\n"
        "  image_encoder.model.network.0.1.layer_scale of shape (64, 1, 1)\n"
        "1 tensor in the Keras model without a row:\n"
        "  image_encoder/backbone/stages_0/blocks_1/layer_scale/gamma of shape (64)"
    )


def test_a_duplicated_row() -> None:
    row = S0_ROWS[index("head.proj")]
    assert problems([*S0_ROWS, row]) == (
        "2 tensors in the table more than once:\n"
        "  image_encoder.model.head.proj as a source, 2 times\n"
        "  image_encoder/projection/kernel as a target, 2 times"
    )


def test_a_transposed_shape() -> None:
    rows = list(S0_ROWS)
    at = index("head.proj")
    rows[at] = replace(rows[at], source_shape=(512, 1024), target_shape=(512, 1024))
    assert problems(rows) == (
        "1 tensor of the wrong shape in the checkpoint:\n"
        "  image_encoder.model.head.proj has shape (1024, 512), but (512, 1024) is needed for "
        "image_encoder/projection/kernel\n"
        "1 tensor of the wrong shape in the Keras model:\n"
        "  image_encoder/projection/kernel has shape (1024, 512), but (512, 1024) comes from "
        "image_encoder.model.head.proj"
    )


def test_swapped_targets_of_unequal_shapes() -> None:
    rows = list(S0_ROWS)
    first, second = index("conv_exp.se.reduce.bias"), index("conv_exp.se.expand.bias")
    rows[first] = replace(rows[first], target=S0_ROWS[second].target)
    rows[second] = replace(rows[second], target=S0_ROWS[first].target)
    ours = "image_encoder/backbone/final_conv/se"
    theirs = "image_encoder.model.conv_exp.se"
    assert problems(rows) == (
        "2 tensors of the wrong shape in the Keras model:\n"
        f"  {ours}/fc2/bias has shape (1024), but (64) comes from {theirs}.reduce.bias\n"
        f"  {ours}/fc1/bias has shape (64), but (1024) comes from {theirs}.expand.bias"
    )


def test_swapped_targets_of_equal_shapes_are_for_numbers_to_find() -> None:
    """Names and shapes cannot tell a batch norm's gamma from its beta; tests/test_mutations.py shows what can."""
    rows = list(S0_ROWS)
    first = index("network.0.0.convffn.conv.bn.weight")
    rows[first] = replace(rows[first], target=S0_ROWS[first + 1].target)
    rows[first + 1] = replace(rows[first + 1], target=S0_ROWS[first].target)
    assert problems(rows) == ""


def test_tensors_that_miss_on_either_side() -> None:
    name, variable = S0_ROWS[0].source, S0_ROWS[0].target
    checkpoint, model = sources(S0_ROWS), targets(S0_ROWS)
    del checkpoint[name]
    assert report(audit(S0_ROWS, checkpoint, model)) == (
        f"1 tensor missing from the checkpoint:\n  {name} of shape (64, 3, 3, 3), for {variable} of shape (3, 3, 3, 64)"
    )
    del model[variable]
    checkpoint[name] = (64, 3, 3, 3)
    assert report(audit(S0_ROWS, checkpoint, model)) == (
        "1 tensor missing from the Keras model:\n"
        f"  {variable} of shape (3, 3, 3, 64), for {name} of shape (64, 3, 3, 3)"
    )


def test_only_what_may_be_absent_may_be_absent() -> None:
    rows = tower_rows("mci0", "timm", "train")
    model = targets(rows)
    del model["image_encoder/projection/bias"]
    assert audit(rows, sources(rows), model) == []
    checkpoint = sources(rows)
    del checkpoint["head.fc.bias"]
    assert audit(rows, checkpoint, targets(rows)) == []


# --- Reports ---


def test_all_problems_are_reported_at_once_and_long_lists_are_counted() -> None:
    many = [Problem("missing from the checkpoint", chr(ord("a") + i), "of shape (1)") for i in range(23)]
    text = report([*many, Problem("unexpected in the checkpoint", "z", "of shape (2)")])
    assert text.splitlines()[0] == "23 tensors missing from the checkpoint:"
    assert text.splitlines()[1] == "  a of shape (1)"
    assert "  ... and 3 more lines like these" in text
    assert text.endswith("1 tensor unexpected in the checkpoint:\n  z of shape (2)")
