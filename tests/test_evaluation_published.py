"""Apple's figures: that they are whole, found by a data set's name, and compared with what was measured."""

import pytest

from mobileclip_keras.keras_models import registry
from mobileclip_keras.verify.evaluation.intervals import Figure
from mobileclip_keras.verify.evaluation.published import MEASURED, UnknownDataError, compare, find, rows


def test_every_variant_and_data_set_is_there() -> None:
    table = rows()
    assert len(table) == 50
    published = [variant for variant in registry.VARIANTS.values() if not variant.is_ours]
    assert len(published) == 14
    for variant in published:
        assert table["imagenet1k"].values[variant.name] == pytest.approx(variant.imagenet_top1 / 100, abs=6e-6)
    counts = {name: sum(name in row.values for row in table.values()) for name in (each.name for each in published)}
    assert set(counts.values()) == {38, 48}  # the newer ones have SugarCrepe and long captions, too
    assert {name for name, count in counts.items() if count == 38} == {
        f"mobileclip_{name}" for name in ("s0", "s1", "s2", "b", "blt")
    }


def test_figures_times_images_are_whole_numbers() -> None:
    """So the figure is the accuracy, and of that many images; of no other metric and number would all 14 be whole."""
    for row in rows().values():
        if row.metric == "acc1":
            assert row.images
            for value in row.values.values():
                assert abs(value * row.images - round(value * row.images)) <= 0.5e-6 * row.images + 1e-6


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("clip-benchmark/wds_vtab-caltech101", "vtab/caltech101"),
        ("clip-benchmark/wds_imagenet1k", "imagenet1k"),
        ("djghosh/wds_imagenet-a_test", "imagenet-a"),
        ("clip-benchmark/wds_mscoco_captions", "retrieval/mscoco_2014_5k_test_image_text_retrieval"),
        ("/data/wds_flickr30k/", "retrieval/flickr_1k_test_image_text_retrieval"),
        ("pets", "vtab/pets"),
        ("clip-benchmark/wds_voc2007_multilabel", None),
        ("clip-benchmark/wds_fer2013", None),
        ("my photos", None),
    ],
)
def test_data_sets_are_known_by_their_names(data: str, key: str | None) -> None:
    found = find(data)
    assert (found and found.key) == key


def test_a_user_may_say_which_it_is() -> None:
    named = find("my photos", "vtab-pets")
    assert named is not None and named.key == "vtab/pets"
    assert find("pets", "none") is None
    with pytest.raises(UnknownDataError, match=r"no figure of 'petz'\. It does of: vtab/caltech101, cifar10"):
        find("pets", "petz")


def figure(value: float, half: float = 0.01) -> dict[str, Figure]:
    return {"acc1": Figure(value, value - half, value + half, "Wilson")}


def test_they_agree_where_apples_lies_in_the_interval() -> None:
    row = rows()["imagenet1k"]  # 67.786 % of s0
    found = compare(row, "mobileclip_s0", figure(0.67), 50_000, ())
    assert found.agrees is True
    assert found.sentence() == (
        "Apple's figure on ImageNet 1k, acc1: 67.79%. Measured: 67.00% (66.00% to 68.00% with 95 %). They agree."
    )
    below = compare(row, "mobileclip_s0", figure(0.66), 49_999, ("The templates are single, not the data set's.",))
    assert below.agrees is False
    assert below.sentence().endswith(
        "They do not agree: 1.79 points less. The templates are single, not the data set's. "
        "49,999 images were measured, and Apple's figure is of 50,000."
    )
    assert (
        compare(row, "mobileclip_s0", figure(0.7), 50_000, ())
        .sentence()
        .endswith("2.21 points more. No reason is known here.")
    )


def test_what_cannot_be_compared_is_said() -> None:
    assert {"F1-macro_all", "acc_worst_region", "acc"} & MEASURED == set()
    other = compare(rows()["wilds/iwildcam"], "mobileclip_s0", figure(0.3), 42_791, ())
    assert other.agrees is None and other.sentence().endswith("11.90%. It is not measured here.")
    for variant in (None, "mobileclip_s0"):
        none = compare(rows()["comp/sugarcrepe_add_att"], variant, {}, 1, ())
        assert none.agrees is None
        assert none.sentence() == "Apple publishes no figure of this variant on SugarCrepe Add-att."
