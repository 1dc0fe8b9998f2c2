"""A run of `embed` that is killed at random moments and begun again: `killed_embedding.py FOLDER KILLS [STORE]`.

A program of its own, without Keras, as it forks for each run. With a STORE that ends in `.lance`, all are of Lance.
After every kill, each row is there once and right, and in the end nothing is missing. Prints what it saw as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mobileclip_keras.keras_models.tasks.embedding import filling, lance_layout
from mobileclip_keras.keras_models.tasks.embedding.store import Store, is_store
from tests.embedding_support import StubEmbedder, picture, pictures, rows_of, shard

FILES, IN_SHARD = 60, 20


class Slow(StubEmbedder):
    """Takes its time for a batch, so that kills fall everywhere."""

    def pixels(self, batch: np.ndarray) -> np.ndarray:
        time.sleep(0.001)
        return super().pixels(batch)


def make(folder: Path) -> tuple[list[str], dict[str, np.ndarray], int]:
    """A collection, the right vector of each of its inputs, and how many are broken."""
    files = pictures(folder / "photos", FILES)
    archive = shard(folder / "0.tar", {f"{number}.png": picture(1000 + number) for number in range(IN_SHARD)})
    for path in files[::20]:
        Path(path).write_bytes(b"broken")
    good = {path: number for number, path in enumerate(files) if number % 20}
    good |= {f"{archive}#{number}.png": 1000 + number for number in range(IN_SHARD)}
    stub = StubEmbedder()
    right = {name: stub.pixels(stub.prepare(picture(seed))[None])[0] for name, seed in good.items()}
    return [str(folder / "photos"), str(archive)], right, len(files[::20])


def killed(store: Path, data: list[str], after: float) -> bool:
    """Runs `fill` in a process of its own, and kills it. False where it was quicker."""
    child = os.fork()
    if child == 0:
        try:
            filling.fill(store, data, Slow())  # type: ignore[arg-type]
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    until, status = time.monotonic() + after, None
    while status is None:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        else:
            ended, found = os.waitpid(child, os.WNOHANG)
            status = found if ended else None
            time.sleep(0.0005)
    if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        raise RuntimeError("the run failed by itself")
    return os.WIFSIGNALED(status)


def main(folder: Path, kills: int, seed: int = 0, name: str = "store") -> dict[str, Any]:
    """Kills runs until there were as many kills, over as many stores as that takes."""
    random.seed(seed)
    filling.ROWS, lance_layout.ABANDONED = 8, 0.0
    if name.endswith(".lance"):
        lance_layout.package()  # importing it takes longer than a run; only children use it, as it cannot be forked
    data, right, broken = make(folder)
    counts = dict.fromkeys(("kills", "stores", "runs", *CHECKS), 0)
    before = time.monotonic()
    killed(folder / f"first {name}", data, 600)
    usual = time.monotonic() - before
    while counts["kills"] < kills:
        store = folder / f"{counts['stores']} {name}"
        counts["stores"] += 1
        for _ in range(12):  # so that some stores are killed often, and the last run goes to its end
            if counts["kills"] == kills:
                break
            before, was_killed = time.monotonic(), killed(store, data, random.random() * usual)
            if not was_killed:  # runs take longer where there is more to do, and where the machine is busy
                usual = (usual + time.monotonic() - before) / 2
            counts["kills"] += was_killed
            counts["runs"] += 1
            add(counts, in_child(lambda store=store: check(store, right)))
        print(json.dumps(counts), file=sys.stderr)
        add(counts, in_child(lambda store=store: at_the_end(store, data, right, broken)))
    return counts


CHECKS = ("wrong", "twice", "missing", "left beside", "lists wrong")


def add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] += count


def in_child(look: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What a function finds, called in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(look()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        found = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the check failed by itself")
    return json.loads(found)


def check(store: Path, right: dict[str, np.ndarray]) -> dict[str, int]:
    """What is wrong with the rows that are there."""
    if not is_store(store):
        return {}
    try:
        found = rows_of(store)
    except AssertionError:
        return {"twice": 1}
    return {"wrong": sum(name not in right or not np.array_equal(row, right[name]) for name, row in found.items())}


def at_the_end(store: Path, data: list[str], right: dict[str, np.ndarray], broken: int) -> dict[str, int]:
    """What is wrong once a run went to its end."""
    filling.fill(store, data, StubEmbedder())  # type: ignore[arg-type]
    parts = Store.open(store).parts()
    beside = {path.name for path in store.iterdir()} - {"store.json", ".lock", "unreadable.jsonl"}
    if store.suffix == ".lance":
        beside -= {"_versions", "_transactions", "data"}
        beside |= {path.name for path in (store / "data").iterdir()}
    return {
        **check(store, right),
        "missing": len(right.keys() - rows_of(store).keys()),
        "lists wrong": len(Store.open(store).unreadable()) != broken,
        "left beside": beside != {part.path.name for part in parts},
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), 0, *sys.argv[3:])))
