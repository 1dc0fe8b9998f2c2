"""Finding towers: a file that is exactly as published is found without a search, and as the search finds it."""

import pytest

from mobileclip_keras.converters.checkpoints import towers
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, known_formats
from mobileclip_keras.converters.checkpoints.towers import FoundTower, find_towers
from mobileclip_keras.weight_maps.table import Row

FORMATS = [known for known in known_formats() if known.towers == "both"]


def never(_: str) -> bool:
    return False


def outcome(found: list[FoundTower]) -> set[tuple[str, str, tuple[Row, ...], str, bool]]:
    return {(each.table.kind, each.table.family, each.table.rows, each.prefix, each.whole) for each in found}


@pytest.mark.parametrize("known", FORMATS, ids=str)
def test_a_published_file_is_found_without_a_search_and_as_by_one(known: CheckpointFormat) -> None:
    quick = towers._as_published(known.shapes)
    assert len(quick) == 2
    assert outcome(quick) == outcome([each for each in towers._searched(known.shapes, never) if each.whole])


@pytest.mark.parametrize("change", ["missing", "another shape", "another name", "one more", "under a prefix"])
def test_anything_else_is_searched_for(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = dict(FORMATS[0].shapes)
    name = next(name for name in shapes if name.startswith("image_encoder."))
    if change == "missing":
        del shapes[name]
    elif change == "another shape":
        shapes[name] = (1, *shapes[name])
    elif change == "another name":
        shapes[f"{name}_2"] = shapes.pop(name)
    elif change == "one more":
        shapes["head.weight"] = (2, 3)
    else:
        shapes = {f"model.{name}": shape for name, shape in shapes.items()}
    assert towers._as_published(shapes) == []
    asked = []
    monkeypatch.setattr(towers, "_searched", lambda *_: asked.append(1) or [])
    find_towers(shapes)
    assert asked


def test_scalars_beside_the_towers_do_not_matter() -> None:
    shapes = dict(FORMATS[0].shapes)
    assert towers._as_published({**shapes, "logit_bias": ()})
    shapes.pop("logit_scale")
    assert towers._as_published(shapes)
