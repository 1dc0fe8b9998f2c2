"""Finding things in stores: exactly, by an index, by neighbours, and what is there twice."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.keras_models.store.writing.staging import PREFIX
from mobileclip_keras.keras_models.tasks.embedding import exact, graph, searching
from mobileclip_keras.keras_models.tasks.embedding import vectors as copies
from mobileclip_keras.keras_models.tasks.embedding.errors import StoreError
from mobileclip_keras.keras_models.tasks.embedding.exact import groups, nearest
from mobileclip_keras.keras_models.tasks.embedding.parts import Rows
from mobileclip_keras.keras_models.tasks.embedding.searching import Collection, weighted
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from mobileclip_keras.keras_models.tasks.embedding_files import Embeddings
from mobileclip_keras.keras_models.tasks.retrieval import SearchError
from tests.embedding_support import FINGERPRINT, STORES

both = pytest.mark.parametrize("place", STORES)
"""Runs a test for both layouts of a store."""


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def store_of(folder: Path, features: np.ndarray, parts: int = 3, dtype: str = "float32") -> Store:
    """A store of images i0, i1, ... and as many texts t0, t1, ..., whose vectors are the images' times -1."""
    with Store.for_writing(folder, "model", features.shape[1], FINGERPRINT, dtype) as store:
        for some in np.array_split(np.arange(len(features)), parts):
            for kind, sign in (("image", 1), ("text", -1)):
                ids = [f"{kind}{number:011}".encode()[-16:].rjust(16) for number in some]
                names = [f"{kind[0]}{number}" for number in some]
                store.layout.write(Rows(ids, [kind] * len(some), names, sign * features[some]))
    return store


@pytest.mark.parametrize("queries", [1, 7])
def test_exact_search_is_a_sort_of_all_products(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    array, wanted = vectors(1000), vectors(queries, seed=1)
    array[500:510] = array[3]  # equal ones, in another block
    wanted[0] = array[3]
    monkeypatch.setattr(exact, "LARGEST_BLOCK", 97)
    found, scores = nearest(array, wanted, 12)
    products = wanted @ array.T
    right = np.argsort(-products.astype(np.float64).round(6), axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(found, right)
    np.testing.assert_allclose(scores, np.take_along_axis(products, right, 1), atol=1e-6)
    assert nearest(array[:3], wanted, 12)[0].shape == (queries, 3)


@both
def test_a_store_is_searched_by_kind_and_again_when_it_has_grown(place: str, tmp_path: Path) -> None:
    features = vectors(50)
    store = store_of(tmp_path / place, features)
    found = Collection.open(tmp_path / place)
    assert len(found) == 50 and found.is_exact
    (matches,) = found.search(features[7], 3)
    order = np.argsort(-(features @ features[7]))[:3]
    assert [match.name for match in matches] == [f"i{number}" for number in order]
    assert matches[0].score == pytest.approx(1, abs=1e-6)
    assert Collection.open(tmp_path / place, "text").search(-features[7], 1)[0][0].name == "t7"
    assert [match.name for match in found.neighbours("i7", 2)] == [f"i{number}" for number in order[1:]]
    assert found.vector("t7") is None and found.vector("gone") is None

    store.layout.write(Rows([b"n" * 16], ["image"], ["new"], features[7:8]))
    assert {match.name for match in Collection.open(tmp_path / place).search(features[7], 2)[0]} == {"i7", "new"}
    assert len(list((tmp_path / place / "search").glob("image-*"))) == 1, "the old copy is gone"
    assert len(list((tmp_path / place / "search").glob("text-*"))) == 1


@both
def test_a_search_that_began_before_a_store_grew_has_the_right_names(place: str, tmp_path: Path) -> None:
    features = vectors(70)
    store = store_of(tmp_path / place, features[:50])
    found = Collection.open(tmp_path / place)
    for number in range(50, 60):  # some come before the parts that there are, some behind them
        store.layout.write(Rows([bytes([number]) * 16], ["image"], [f"i{number}"], features[number : number + 1]))
    right = nearest(features[:50], features[:50], 3)[0]
    assert [[match.name for match in row] for row in found.search(features[:50], 3)] == [
        [f"i{number}" for number in row] for row in right
    ]
    assert found.vector("i55") is None
    np.testing.assert_array_equal(found.vector("i7"), features[7])


def test_searches_of_a_store_that_grows_leave_each_others_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = vectors(60)
    store = store_of(tmp_path / "store", features[:50])
    copy, others = copies._copy, []

    def slow(*arguments: Any) -> None:
        copy(*arguments)
        if not others:  # meanwhile the store grows, and another search copies what it holds then
            others.append(None)
            store.layout.write(Rows([b"n" * 16], ["image"], ["new"], features[50:51]))
            others[0] = Collection.open(tmp_path / "store")

    monkeypatch.setattr(copies, "_copy", slow)
    found = Collection.open(tmp_path / "store")
    assert (len(found), len(others[0])) == (50, 51)
    assert others[0].search(features[50], 1)[0][0].name == "new"
    monkeypatch.setattr(copies, "_copy", None)
    assert len(Collection.open(tmp_path / "store")) == 51, "the newer copy is there"


@pytest.mark.parametrize("damage", [b"", b"half of it", None])
def test_a_copy_that_is_damaged_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    features = vectors(20)
    store_of(tmp_path / "store", features)
    Collection.open(tmp_path / "store")
    (copy,) = (tmp_path / "store").rglob("vectors.npy")
    copy.unlink()
    if damage is not None:
        copy.write_bytes(damage)
    assert Collection.open(tmp_path / "store").search(features[3], 1)[0][0].name == "i3"


@both
def test_vectors_of_another_length_are_damage(place: str, tmp_path: Path) -> None:
    features = vectors(20)
    for wrong in (float("nan"), float("inf"), 0.9):
        features[3, 2] = wrong
        store_of(tmp_path / f"{wrong} {place}", features)
        with pytest.raises(StoreError, match="is damaged, or no part of this store: not all of its vectors have the"):
            Collection.open(tmp_path / f"{wrong} {place}")


def test_half_precision_finds_the_same(tmp_path: Path) -> None:
    features = vectors(60)
    store_of(tmp_path / "half", features, dtype="float16")
    found = Collection.open(tmp_path / "half").search(features[:5], 4)
    exact_ones = nearest(features, features[:5], 4)[0]
    assert [[match.name for match in row] for row in found] == [[f"i{number}" for number in row] for row in exact_ones]
    lengths = np.linalg.norm(Collection.open(tmp_path / "half").array.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6, err_msg="what half precision rounded is of length 1 again")


def test_what_a_killed_search_left_is_removed(tmp_path: Path) -> None:
    store_of(tmp_path / "store", vectors(20))
    left = tmp_path / "store" / "search" / f"{PREFIX}0123456789ab"
    (left / "new").mkdir(parents=True)
    (left / "owner.json").write_text(json.dumps({"target": "image-x", "host": socket.gethostname()}))
    left.with_name(f"{left.name}.lock").touch()
    Collection.open(tmp_path / "store")
    assert [path.name[:6] for path in (tmp_path / "store" / "search").iterdir()] == ["image-"]


def test_an_index_is_used_beyond_the_limit_and_its_recall_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    features = vectors(400)
    store = store_of(tmp_path / "store", features)
    measured = graph.build(store)
    assert measured.recall > 0.95 and measured.vectors == 400 and measured.queries == 200
    assert Collection.open(tmp_path / "store").is_exact
    monkeypatch.setattr(searching, "EXACT_UP_TO", 100)
    found = Collection.open(tmp_path / "store")
    assert not found.is_exact and Collection.open(tmp_path / "store", exact=True).is_exact
    (matches,) = found.search(features[7], 1)
    assert matches[0].name == "i7" and matches[0].score == pytest.approx(1, abs=2e-3)
    place = next((tmp_path / "store" / "search").glob("*-graph"))
    record = (place / "recall.json").read_text()
    (place / "recall.json").write_text(record.replace('"vectors": 400', '"vectors": 399'))
    with pytest.raises(StoreError, match="is damaged: it holds 400 vectors"):
        Collection.open(tmp_path / "store")
    (place / "recall.json").write_text(record)
    (place / "index.usearch").write_bytes(b"no index")
    with pytest.raises(StoreError, match="is damaged"):
        Collection.open(tmp_path / "store")
    store.layout.write(Rows([b"n" * 16], ["image"], ["new"], features[7:8]))
    assert Collection.open(tmp_path / "store").is_exact, "an index of what was there before is not used"


def test_a_poor_index_has_a_poor_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    store = store_of(tmp_path / "store", vectors(400))
    search = graph.search

    def poor(index: Any, queries: np.ndarray, count: int) -> Any:
        keys, scores = search(index, queries, count)
        keys[:, count // 2 :] = -1
        return keys, scores

    monkeypatch.setattr(graph, "search", poor)
    assert 0.3 < graph.build(store).recall < 0.6


@both
def test_duplicates_are_groups_of_what_is_near(place: str, tmp_path: Path) -> None:
    features = vectors(300, width=64)
    noise = 0.02 * np.random.default_rng(2).normal(size=(4, 64))
    features[[10, 150, 299]] = unit(features[10] + noise[:3])
    features[200] = unit((features[20] + noise[3])[None])[0]
    store_of(tmp_path / place, features)
    found = Collection.open(tmp_path / place).duplicates(0.95)
    assert sorted(sorted(match.name for match in group) for group in found) == [
        ["i10", "i150", "i299"],
        ["i20", "i200"],
    ]
    products = features @ features.T - 2 * np.eye(300)
    for match in found[0] + found[1]:
        assert match.score == pytest.approx(products[int(match.name[1:])].max(), abs=1e-6)
    assert Collection.open(tmp_path / place).duplicates(0.9999) == []
    same = np.repeat(features[:2], 30, axis=0)
    assert [len(group) for group in groups(same, 0.99)] == [30, 30]
    for near in (0, 1.01, float("nan")):
        with pytest.raises(SearchError, match="above 0 and at most 1"):
            Collection.open(tmp_path / place).duplicates(near)


def test_groups_over_blocks_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    array = vectors(5000, width=6)
    found = groups(array, 0.997)
    products = array @ array.T
    np.fill_diagonal(products, -1)
    parent = list(range(len(array)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for one, other in zip(*np.nonzero(products >= 0.997), strict=True):
        parent[root(one)] = root(other)
    wanted: dict[int, list[int]] = {}
    for index in range(len(array)):
        wanted.setdefault(root(index), []).append(index)
    assert sorted([index for index, _ in group] for group in found) == sorted(
        group for group in wanted.values() if len(group) > 1
    )


def test_files_are_searched_like_stores(tmp_path: Path) -> None:
    features = vectors(5)
    Embeddings("s0", tuple("abcde"), features, ("x",), features[:1]).save(tmp_path / "a.npz")
    found = Collection.open(tmp_path / "a.npz")
    assert found.search(features[2], 1)[0][0].name == "c"
    assert len(found.neighbours("c", 9)) == 4
    with pytest.raises(SearchError, match="z is not in the collection"):
        found.neighbours("z")
    with pytest.raises(SearchError, match="3 numbers, the collection 16"):
        found.search(np.ones(3))
    with pytest.raises(StoreError, match="does not exist"):
        Collection.open(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"it has no store\.json"):
        Collection.open(tmp_path / "empty")


def test_weights_make_one_query_of_several() -> None:
    rows = np.array([[2.0, 0], [0, 1]])
    np.testing.assert_allclose(weighted(rows, [3, 4]), [0.6, 0.8])
    np.testing.assert_allclose(weighted(rows, [1, -1]), [0.5**0.5, -(0.5**0.5)])
    with pytest.raises(SearchError, match="1 weights for 2 queries"):
        weighted(rows, [1])
    for weights in ([0, 0], [float("nan"), 1]):
        with pytest.raises(SearchError, match="leave nothing to search for"):
            weighted(rows, weights)


def test_what_a_tower_lacks_is_not_compared() -> None:
    assert FINGERPRINT.differences(replace(FINGERPRINT, image_weights="")) == []
    (one,) = FINGERPRINT.differences(replace(FINGERPRINT, image_weights="", precision="10 bits"))
    assert one == "the precision of the device (23 bits there, 10 bits here)"
