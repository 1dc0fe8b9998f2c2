"""What runs on the nodes of a Ray cluster, and what surrounds it, beside a stand-in for Ray that only passes on."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobileclip_keras.keras_models.tasks.embedding.errors import StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.finding import find_units
from mobileclip_keras.keras_models.tasks.embedding.items import Item
from mobileclip_keras.keras_models.tasks.embedding.on_ray import cluster, filling, reading, writing
from mobileclip_keras.keras_models.tasks.embedding.on_ray.reading import Place, ids_of
from mobileclip_keras.keras_models.tasks.embedding.parts import Rows
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import FINGERPRINT, WIDTH, StubEmbedder, picture, pictures, rows_of


class Block:
    """Rows as Ray gives them to a sink."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = table.to_pydict()

    def num_rows(self) -> int:
        return len(self._columns["id"])

    def to_numpy(self, names: list[str]) -> dict[str, np.ndarray]:
        return {name: np.array(self._columns[name]) for name in names}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in: what is put is got, blocks are tables, and it notes how it was begun and ended."""
    block = SimpleNamespace(BlockMetadata=lambda **facts: facts, BlockAccessor=SimpleNamespace(for_block=Block))
    context = SimpleNamespace(enable_progress_bars=True)
    data = SimpleNamespace(
        Datasource=object,
        Datasink=object,
        ReadTask=lambda read, about, schema: read,
        block=block,
        DataContext=SimpleNamespace(get_current=lambda: context),
    )
    made = SimpleNamespace(data=data, put=lambda value: value, get=lambda value: value, begun=[], ended=0)
    made.is_initialized = lambda: False
    made.init = lambda **options: made.begun.append(options)
    made.shutdown = lambda: setattr(made, "ended", made.ended + 1)
    made.cluster_resources = lambda: {"CPU": 3.0}
    for name, module in {"ray": made, "ray.data": data, "ray.data.block": block}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven pictures in files of their own, and three in a table, below the current folder."""
    pictures(tmp_path / "photos", 11)
    pq.write_table(pa.table({"photo": [picture(50 + number) for number in range(3)]}), tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(ray: Any, place: Place, done: np.ndarray, data: list[str]) -> list[list[dict[str, Any]]]:
    """The blocks of all read tasks."""
    tasks = reading.source(ray, list(find_units(data)), done, place).get_read_tasks(99)
    return [table.to_pylist() for task in tasks for table in task()]


def test_every_input_that_is_not_done_is_read_once(
    ray: SimpleNamespace, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROWS_OF_A_BLOCK", 4)
    fill("store", ["photos/00003.png", "photos/00007.png"], StubEmbedder())  # type: ignore[arg-type]
    done = ids_of(Store.open("store"))
    units = list(find_units(["photos", "rows.parquet"]))
    monkeypatch.chdir("/")  # where a node happens to be
    tasks = reading.source(ray, units, done, Place(str(photos), "photo")).get_read_tasks(99)
    found = [table.to_pylist() for task in tasks for table in task()]
    assert os.getcwd() == "/" and [len(block) for block in found] == [4, 4, 1, 3]
    rows = [row for block in found for row in block]
    assert [row["name"] for row in rows] == [
        *(f"photos/{number:05}.png" for number in range(11) if number not in (3, 7)),
        *(f"rows.parquet#{number}" for number in range(3)),
    ]
    seeds = [*(number for number in range(11) if number not in (3, 7)), 50, 51, 52]
    assert [row["content"] for row in rows] == [picture(seed) for seed in seeds]
    assert len({row["id"] for row in rows}) == 12 and {row["reason"] for row in rows} == {""}


def test_many_units_are_few_tasks(ray: SimpleNamespace, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TASKS", 3)
    monkeypatch.setattr("mobileclip_keras.keras_models.tasks.embedding.finding.FILES_AT_ONCE", 1)
    units = list(find_units(["photos"]))
    tasks = reading.source(ray, units, np.empty((0, 2), np.uint64), Place(str(photos), None)).get_read_tasks(99)
    names = [row["name"] for task in tasks for table in task() for row in table.to_pylist()]
    assert len(tasks) == 3 and names == [f"photos/{number:05}.png" for number in range(11)]


def test_large_pictures_make_small_blocks(ray: SimpleNamespace, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BYTES_OF_A_BLOCK", 1)
    blocks = read(ray, Place(str(photos), None), np.empty((0, 2), np.uint64), ["photos"])
    assert [len(block) for block in blocks] == [1] * 11 + [0]


def table_of(letters: str, reasons: dict[str, str]) -> pa.Table:
    """Rows as an actor gives them: the vector of each letter is one of its own."""
    ids = [(each.encode() * 16).hex() for each in letters]
    features = [np.eye(WIDTH, dtype=np.float32)[ord(each) - ord("a")].tolist() for each in letters]
    columns = {"id": ids, "kind": ["image"] * len(letters), "name": list(letters)}
    return pa.table({**columns, "reason": [reasons.get(each, "") for each in letters], "features": features})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_sink_writes_what_is_good_and_gives_the_rest(ray: SimpleNamespace, tmp_path: Path, dtype: str) -> None:
    with Store.for_writing(tmp_path / "store", "stub", WIDTH, FINGERPRINT, dtype) as store:
        parts = writing.sink(ray, store.layout)
        blocks = [table_of("abc", {"b": "b is broken"}), table_of("", {}), table_of("ed", {"d": "d is broken"})]
        assert parts.write([], None) == [] == parts.write([table_of("", {})], None)
        failed = parts.write(blocks, None)
        more = parts.write([table_of("f", {"f": "f is broken"})], None)
        parts.on_write_complete(SimpleNamespace(write_returns=[failed, more]))
    assert [(item.id, item.name, reason) for item, reason in parts.failed] == [
        (each.encode() * 16, each, f"{each} is broken") for each in "bdf"
    ]
    found = rows_of(tmp_path / "store")
    assert list(found) == ["a", "c", "e"] and all(row[ord(name) - ord("a")] == 1 for name, row in found.items())
    assert {row.dtype for row in found.values()} == {np.dtype(dtype)}
    assert list(store.ids()) == [each * 16 for each in (b"a", b"c", b"e")] and len(store.parts()) == 1


def test_what_was_written_twice_is_there_once_and_failures_are_counted_once(tmp_path: Path) -> None:
    item: Callable[[str], Item] = lambda letter: Item(letter.encode() * 16, "image", letter)  # noqa: E731
    with Store.for_writing(tmp_path / "store", "stub", WIDTH, FINGERPRINT) as store:
        for letters in ("ab", "bc"):  # "b" comes from a worker that was lost, too
            ids = [each.encode() * 16 for each in letters]
            store.layout.write(Rows(ids, ["image"] * 2, list(letters), np.eye(2, WIDTH, dtype=np.float32)))
        # "x" was named twice. "a" failed where a worker was lost, and was read by the next one.
        found = filling._finish(store, 1, [(item("x"), "broken"), (item("x"), "broken"), (item("a"), "lost")], 0.0)
    assert (found.new, found.there, found.unreadable) == (2, 1, 1)
    assert rows_of(tmp_path / "store").keys() == set("abc")
    assert [(each["name"], each["reason"]) for each in store.unreadable()] == [("x", "broken")]


@pytest.mark.parametrize(
    ("resources", "workers", "gpus", "message"),
    [
        ({"CPU": 3.0}, 2, 0, None),
        ({"CPU": 3.0}, 3, 0, "3 workers need 4 processor cores, one of them to read, and the cluster has 3"),
        ({}, 1, 0, "and the cluster has 0"),
        ({"CPU": 9.0, "GPU": 1.0}, 2, 0.5, None),
        ({"CPU": 9.0, "GPU": 1.0}, 2, 0.6, "2 workers with 0.6 GPUs each need more than the 1 of the cluster"),
        ({"CPU": 9.0}, 1, 1, "need more than the 0 of the cluster"),
    ],
)
def test_a_cluster_that_is_too_small_would_wait_for_ever(
    ray: SimpleNamespace, resources: dict[str, float], workers: int, gpus: float, message: str | None
) -> None:
    ray.cluster_resources = lambda: resources
    if message is None:
        with cluster.connected(ray, "local", workers, gpus):
            assert ray.ended == 0
    else:
        with pytest.raises(StoreError, match=message), cluster.connected(ray, "local", workers, gpus):
            pass
    assert ray.ended == 1


def test_workers_compute_as_here_and_a_cluster_of_somebody_else_stays(
    ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cluster.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with pytest.raises(ZeroDivisionError), cluster.connected(ray, "local", 2, 0):
        raise ZeroDivisionError
    (options,) = ray.begun
    assert options["runtime_env"] == {"env_vars": {"KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "3"}}
    assert options["num_cpus"] >= 3 and not options["include_dashboard"] and ray.ended == 1
    ray.is_initialized = lambda: True
    with cluster.connected(ray, "10.0.0.1:6379", 2, 0):
        pass
    assert len(ray.begun) == 1 == ray.ended
