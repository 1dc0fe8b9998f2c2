"""How busy the towers are while `evaluate` reads and prepares images, and how many images it measures in a second.

    KERAS_BACKEND=tensorflow python benchmarks/evaluating.py s0 --images 256

The data set is made up: pictures of 500 x 375 pixels as JPEG, in shards. The model has its real size, untrained. The
share is the time inside the towers, of all the time from the first image to the last. "alone" is the tower's own speed,
on pixels that lie in memory, before and after.
"""

import io
import itertools
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from photos import photo
from rich.console import Console
from samples import keep

CLASSES, SHARD = 10, 100
RESULTS = Path(__file__).parent / "results" / "evaluating.json"


def write_data(folder: Path, images: int) -> None:
    """A data set in CLIP_benchmark's layout."""
    random = np.random.default_rng(0)
    (folder / "test").mkdir()
    (folder / "classnames.txt").write_text("\n".join(f"thing {number}" for number in range(CLASSES)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
    shards = -(-images // SHARD)
    for shard in range(shards):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as archive:
            for number in range(shard * SHARD, min((shard + 1) * SHARD, images)):
                for suffix, content in (("jpg", photo(random)), ("cls", str(number % CLASSES).encode())):
                    member = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text(str(shards))


def measure(variant: str, images: int, batch_size: int) -> dict[str, Any]:
    """One run, in a folder that is removed."""
    import keras

    import mobileclip_keras as mk
    from mobileclip_keras.keras_models import kernels
    from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
    from mobileclip_keras.verify.evaluation.evaluate import evaluate
    from mobileclip_keras.verify.evaluation.keras_encoder import KerasEncoder

    model = mk.MobileClipModel.from_variant(variant, form="inference")
    preprocess = mk.ImagePreprocessor.from_variant(variant)
    identity = {"kind": "Keras", "name": variant, "variant": None, "weights_sha256": "untrained"}
    encoder = KerasEncoder(model, preprocess, identity, batch_size)
    pixels = np.random.default_rng(0).random((batch_size, preprocess.image_size, preprocess.image_size, 3), np.float32)
    rounds = max(1, images // batch_size // 4)

    def alone() -> float:
        """Images that the tower computes in a second."""
        start = time.perf_counter()
        for _ in range(rounds):
            encoder.encode_images(list(pixels))
        return rounds * batch_size / (time.perf_counter() - start)

    encoder.encode_images(list(pixels))  # compiles
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "data").mkdir()
        write_data(Path(place) / "data", images)
        before = alone()
        data = open_dataset(f"{place}/data")
        found = evaluate(encoder, data, Path(place) / "work")
        after = alone()
        files = [sample.image for sample in itertools.islice(data.read(), 32)]
        start = time.process_time()
        for file in files:
            encoder.prepare(file)
        preparing = (time.process_time() - start) / len(files)
    return {
        "variant": variant,
        "backend": keras.backend.backend(),
        "device": kernels.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "images": images,
        "batch_size": batch_size,
        "tower_share": round(found.tower_share, 4),
        "images_per_second": round(found.images_per_second, 3),
        "images_per_second_of_the_tower_alone": [round(before, 3), round(after, 3)],
        "processor_seconds_of_preparing_an_image": round(preparing, 5),
    }


def main(
    variant: Annotated[str, typer.Argument(help="Of the model.")] = "s0",
    images: Annotated[int, typer.Option(min=1)] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    save: Annotated[
        bool, typer.Option("--save", help="Adds the outcome to benchmarks/results/evaluating.json.")
    ] = False,
) -> None:
    """Measures, and prints what came out."""
    found = measure(variant, images, batch_size)
    Console().print_json(json.dumps(found))
    if save:
        keep(RESULTS, {f"{found['backend']} {found['variant']}": found})


if __name__ == "__main__":
    typer.run(main)
