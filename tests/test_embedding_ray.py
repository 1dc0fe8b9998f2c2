"""Embedding on a Ray cluster of two nodes on this machine: the bits of one process, also where a worker is lost.

These tests start processes of Ray, and run nightly. test_ray_worker.py has what needs none.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder
from mobileclip_keras.keras_models.tasks.embedding.errors import DataError, FingerprintError, StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.on_ray import filling
from mobileclip_keras.keras_models.tasks.embedding.on_ray.worker import RayEmbedder
from mobileclip_keras.keras_models.tasks.embedding.on_ray.writing import ItemEmbedder
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import picture, pictures, rows_of, shard
from tests.small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS, small_model

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'mobileclip-keras[ray]'")
pytest.importorskip("ray.data", reason="Ray Data lacks what it needs: pip install 'mobileclip-keras[ray]'")

pytestmark = [pytest.mark.usefixtures("small_towers"), pytest.mark.nightly]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster(small_towers: None) -> Iterator[str]:
    """Two nodes of two processor cores each, in Ray's count, whose workers know the small towers. Gives the address."""
    from ray.cluster_utils import Cluster

    def know_small_towers(image: dict = dict(KNOWN_IMAGE_TOWERS), text: dict = dict(KNOWN_TEXT_TOWERS)) -> None:  # noqa: B006
        from mobileclip_keras.keras_models import architectures

        architectures.IMAGE_TOWERS.update(image)
        architectures.TEXT_TOWERS.update(text)

    size = {"num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=size)
    made.add_node(**size)
    names = ("KERAS_BACKEND", "JAX_ENABLE_X64", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    taken = {name: os.environ[name] for name in names if name in os.environ}
    try:
        ray.init(
            address=made.address,
            log_to_driver=False,
            runtime_env={
                "env_vars": {**taken, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
                "worker_process_setup_hook": know_small_towers,
            },
        )
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model."""
    made = tmp_path_factory.mktemp("ray") / "model"
    small_model(form="inference", variant="mobileclip_s0").save_pretrained(made, preprocessor=mk.ImagePreprocessor(64))
    return made


def collection(place: Path) -> list[str]:
    """150 files, one broken; a shard of 40; two texts; a relative path, and files that are missing or a URL."""
    files = pictures(place / "photos", 150)
    Path(files[7]).write_bytes(b"broken")
    archive = shard(place / "0.tar", {f"{number}.png": picture(1000 + number) for number in range(40)})
    (place / "words.txt").write_text("a cat\na dog\n")
    relative = os.path.relpath(pictures(place / "more", 1, first=500)[0])
    return [str(place / "photos"), str(archive), str(place / "words.txt"), relative, "gone.png", "http://x/a.png"]


def reasons(store: Path) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in Store.open(store).unreadable()}


def assert_same(one: Path, other: Path) -> None:
    """Two stores hold the same vectors under the same names, bit for bit, made by the same, and the same failures."""
    right, found = rows_of(one), rows_of(other)
    assert right.keys() == found.keys()
    for name, vector in right.items():
        np.testing.assert_array_equal(found[name], vector, err_msg=name)
    assert Store.open(one).fingerprint == Store.open(other).fingerprint
    assert sorted(Store.open(one).ids()) == sorted(Store.open(other).ids())
    assert reasons(one) == reasons(other)


@pytest.mark.parametrize("place", ["cluster", "cluster.lance"])
def test_a_cluster_gives_the_bits_of_one_machine_though_a_worker_dies(
    place: str, cluster: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = collection(tmp_path)
    alone = fill(tmp_path / "alone", data, Embedder.from_pretrained(folder, batch_size=8))
    flag = str(tmp_path / "died")

    class Dies(ItemEmbedder):
        """One of the actors is killed at its second batch."""

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            self.batches = getattr(self, "batches", 0) + 1
            if self.batches == 2 and not os.path.exists(flag):
                os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr(filling, "ItemEmbedder", Dies)
    found = filling.fill_on_ray(tmp_path / place, data, folder, workers=2, batch_size=8)
    assert os.path.exists(flag), "no worker was killed"
    assert (found.new, found.unreadable) == (alone.new, alone.unreadable) == (192, 3)
    assert_same(tmp_path / "alone", tmp_path / place)

    pictures(tmp_path / "photos", 3, first=150)
    more = filling.fill_on_ray(tmp_path / place, data, folder, workers=1, batch_size=8)
    again = filling.fill_on_ray(tmp_path / place, data, folder, workers=2, batch_size=8)
    assert (more.new, more.there, again.new, again.there) == (3, 192, 0, 195)
    fill(tmp_path / "alone", data, Embedder.from_pretrained(folder, batch_size=8))
    assert_same(tmp_path / "alone", tmp_path / place)


def test_one_machine_goes_on_where_a_cluster_was_stopped_and_the_other_way_round(
    cluster: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = collection(tmp_path)
    embedder = Embedder.from_pretrained(folder, batch_size=8)
    fill(tmp_path / "alone", data, embedder)
    fill(tmp_path / "store", [str(tmp_path / "0.tar")], embedder)

    class Stops(ItemEmbedder):
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            raise DataError("no more of it.")

    with monkeypatch.context() as patch:
        patch.setattr(filling, "ItemEmbedder", Stops)
        with pytest.raises(StoreError, match=r"^The cluster gave up: no more of it\. What was written before is kept"):
            filling.fill_on_ray(tmp_path / "store", data, folder, batch_size=8)
    assert len(Store.open(tmp_path / "store")) == 40
    filling.fill_on_ray(tmp_path / "store", [*data[1:], data[2]], folder, batch_size=8)
    fill(tmp_path / "store", data, embedder)
    assert_same(tmp_path / "alone", tmp_path / "store")


def test_what_cannot_work_is_refused_and_leaves_nothing(cluster: str, folder: Path, tmp_path: Path) -> None:
    data = pictures(tmp_path / "photos", 2)
    with pytest.raises(
        StoreError, match="9 workers need 10 processor cores, one of them to read, and the cluster has 4"
    ):
        filling.fill_on_ray(tmp_path / "store", data, folder, workers=9)
    with pytest.raises(StoreError, match="2 workers with 1 GPUs each need more than the 0 of the cluster"):
        filling.fill_on_ray(tmp_path / "store", data, folder, workers=2, gpus=1)
    assert not (tmp_path / "store").exists()
    other = tmp_path / "other"
    small_model(image="small_vit", form="inference", variant="mobileclip_s0").save_pretrained(
        other, preprocessor=mk.ImagePreprocessor(64)
    )
    filling.fill_on_ray(tmp_path / "store", data, folder)
    with pytest.raises(FingerprintError, match="the weights of the image tower"):
        filling.fill_on_ray(tmp_path / "store", data, other)
    assert len(rows_of(tmp_path / "store")) == 2


def test_the_class_stands_between_sources_of_rays_own(cluster: str, folder: Path, tmp_path: Path) -> None:
    images = [picture(seed) for seed in range(20)]
    pq.write_table(pa.table({"image": images, "label": list(range(20))}), tmp_path / "in.parquet")
    read = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    made = read.map_batches(
        RayEmbedder, fn_constructor_kwargs={"model": str(folder), "batch_size": 8}, batch_size=8, concurrency=1
    )
    made.write_parquet(str(tmp_path / "out"))
    table = ray.data.read_parquet(str(tmp_path / "out")).to_pandas().sort_values("label")
    expected = Embedder.from_pretrained(folder, batch_size=8).images(images)
    np.testing.assert_array_equal(np.stack([np.asarray(each) for each in table["features"]]), expected)
    assert set(table["reason"]) == {""}


COMMAND = """
import sys
from tests.small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS
from mobileclip_keras.keras_models import architectures
architectures.IMAGE_TOWERS.update(KNOWN_IMAGE_TOWERS)
architectures.TEXT_TOWERS.update(KNOWN_TEXT_TOWERS)
from mobileclip_keras.converters.cli.app import main
main()
"""


def command(*arguments: str) -> "subprocess.Popen[str]":
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "embed", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of_ray() -> set[int]:
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"/ray/" in words or words.startswith(b"ray::"):
            found.add(int(place.name))
    return found


def wait_until_gone(before: set[int]) -> None:
    until = time.monotonic() + 30
    while processes_of_ray() - before and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes_of_ray() - before


def test_the_command_embeds_on_a_cluster_of_its_own_and_on_another(folder: Path, cluster: str, tmp_path: Path) -> None:
    before = processes_of_ray()
    data = pictures(tmp_path / "photos", 12)
    real = tmp_path / "real"
    mk.MobileClipModel.from_variant("s0", form="inference").save_pretrained(real)
    running = command(*data, "--out", str(tmp_path / "store"), "--model", str(real), "--ray", "local", "--json")
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert json.loads(output)["new"] == 12 and not errors.count("Traceback")
    wait_until_gone(before)
    running = command(
        *data, "--out", str(tmp_path / "other"), "--model", str(real), "--ray", cluster, "--batch-size", "4"
    )
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    fill(tmp_path / "alone", data, Embedder.from_pretrained(real))
    assert_same(tmp_path / "alone", tmp_path / "store")
    assert Store.open(tmp_path / "store").model == str(real)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_leaves_no_processes(sent: signal.Signals, tmp_path: Path) -> None:
    before = processes_of_ray()
    data = pictures(tmp_path / "photos", 2)
    running = command(*data, "--out", str(tmp_path / "store"), "--model", "s0", "--ray", "local")
    until = time.monotonic() + 60
    while len(processes_of_ray() - before) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    running.send_signal(sent)
    _, errors = running.communicate(timeout=60)
    assert running.returncode != 0 and "Traceback" not in errors
    wait_until_gone(before)
    left = [path.name for path in (tmp_path / "store").iterdir()] if (tmp_path / "store").exists() else []
    assert left == ([".lock"] if left and sent == signal.SIGKILL else []), "a lock that nobody holds"


def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    data = pictures(tmp_path / "photos", 1)
    running = command(*data, "--out", str(tmp_path / "store"), "--ray", "127.0.0.1:9")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1 and "There is no Ray cluster at 127.0.0.1:9" in errors
    assert "Traceback" not in errors and not (tmp_path / "store").exists()
