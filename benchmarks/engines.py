"""The ways to compute features that benchmarks/inference.py compares; each library runs in a process of its own.

    python engines.py LIBRARY FOLDER

Reads requests, a JSON object a line, and answers each.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]

EXACT = "PyTorch, float64"
BASELINE = "PyTorch, reparameterised"


def reference(folder: Path, tower: str, dtype: str) -> Any:
    """The tower in PyTorch, train form."""
    from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
    from mobileclip_keras.converters.checkpoints.identify import choose_variant, identify
    from mobileclip_keras.verify.torch_models import build_reference

    checkpoint = open_checkpoint(folder / (folder / "source.txt").read_text())
    checkpoint_format = identify(checkpoint.shapes)
    variant = choose_variant(checkpoint_format, None, checkpoint.path)
    state = {name: checkpoint.read(name) for name in checkpoint.shapes}
    made = build_reference(variant.image_tower, variant.text_tower, state, checkpoint_format.layout, dtype=dtype)
    return made.image_tower if tower == "image" else made.text_tower


def folded(model: Any) -> Any:
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model)


def torch_inputs(tower: str, inputs: np.ndarray) -> Any:
    import torch

    array = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)) if tower == "image" else inputs
    return torch.from_numpy(array)


def in_torch(folder: Path, tower: str, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    import torch

    torch.set_num_threads(2)
    batch = torch_inputs(tower, inputs)

    def exact() -> Run:
        return inferring(reference(folder, tower, "float64"), batch.double() if tower == "image" else batch)

    loaded = reference(folder, tower, "float32")
    yield EXACT, exact
    yield BASELINE, lambda: inferring(folded(loaded), batch)
    yield "PyTorch, as loaded", lambda: inferring(loaded, batch)
    torch.compiler.reset()  # it keeps only so many programs of one function, and then runs it as it is
    yield f"{BASELINE}, torch.compile", lambda: inferring(torch.compile(folded(loaded)), batch)


def inferring(model: Callable[[Any], Any], batch: Any) -> Run:
    """A run of a function of PyTorch's on a batch, without gradients."""
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return model(batch).numpy()

    return run


def in_onnxruntime(folder: Path, tower: str, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    def make() -> Run:
        import onnxruntime
        import torch

        batch = torch_inputs(tower, inputs)
        path = folder / f"{tower}{len(inputs)}.onnx"
        torch.onnx.export(folded(reference(folder, tower, "float32")), (batch,), path, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: batch.numpy()}
        return lambda: session.run(None, feed)[0]

    yield "ONNX Runtime", make


def in_openvino(folder: Path, tower: str, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    def make() -> Run:
        import openvino
        import torch

        batch = torch_inputs(tower, inputs)
        with torch.inference_mode():
            os.environ["CI"] = "true"  # elsewhere it sends records of its use
            model = openvino.convert_model(folded(reference(folder, tower, "float32")), example_input=batch)
        # By default it rounds to bfloat16 where the processor has it.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
        compiled = openvino.compile_model(model, "CPU", settings)
        return lambda: compiled([batch.numpy()])[0]

    yield "OpenVINO, float32", make


def in_keras(folder: Path, tower: str, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    import keras

    import mobileclip_keras as mk

    backend = keras.backend.backend()
    title = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}[backend]
    for form in ("inference", "train"):
        model = mk.MobileClipModel.from_pretrained(folder / "converted", form=form, towers=tower)
        encoder = model.image_encoder if tower == "image" else model.text_encoder
        for how, make in {"tensorflow": on_tensorflow, "jax": on_jax, "torch": on_torch}[backend](encoder, inputs):
            if form == "inference" or how in ("tf.function", "jit", "eager, channels last"):
                yield f"Keras on {title}, {form} form, {how}", make


def on_tensorflow(encoder: Any, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    import tensorflow as tf

    batch = tf.constant(inputs)

    def graph(compiled: bool) -> Run:
        function = tf.function(lambda given: encoder(given, training=False), jit_compile=compiled, autograph=False)
        return lambda: function(batch).numpy()

    yield "tf.function", lambda: graph(compiled=False)
    yield "tf.function with XLA", lambda: graph(compiled=True)
    yield "predict", lambda: lambda: encoder.predict_on_batch(inputs)
    yield "eager", lambda: lambda: encoder(batch, training=False).numpy()


def on_jax(encoder: Any, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    import jax

    batch = jax.numpy.asarray(inputs)

    def jitted() -> Run:
        function = jax.jit(lambda weights, rest, given: encoder.stateless_call(weights, rest, given, training=False)[0])

        def run() -> Any:
            # Taken anew each time: `predict` gives the variables other buffers.
            weights, rest = (
                [v.value for v in vs] for vs in (encoder.trainable_variables, encoder.non_trainable_variables)
            )
            return np.asarray(function(weights, rest, batch))

        return run

    yield "jit", jitted
    yield "predict", lambda: lambda: encoder.predict_on_batch(inputs)


def on_torch(encoder: Any, inputs: np.ndarray) -> Iterator[tuple[str, Callable[[], Run]]]:
    import torch

    torch.set_num_threads(2)
    batch = torch.from_numpy(inputs)

    def compute(given: Any) -> Any:
        return encoder(given, training=False)

    yield "eager, channels last", lambda: inferring(compute, batch)
    if batch.ndim == 4:  # the same values, stored as PyTorch stores images by default
        stored = batch.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        yield "eager, channels first", lambda: inferring(compute, stored)
    torch.compiler.reset()  # as above
    yield "torch.compile", lambda: inferring(torch.compile(compute), batch)


LIBRARIES = {"torch": in_torch, "onnxruntime": in_onnxruntime, "openvino": in_openvino}
NEEDED = {"onnxruntime": ("onnxruntime", "onnxscript"), "openvino": ("openvino",)}


def serve(library: str, folder: Path) -> None:
    prepared: dict[str, Run] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        if request["do"] == "prepare":
            answer = list(prepare(library, folder, request["tower"], request["batch"], prepared))
        elif request["do"] == "forget":
            prepared.clear()
        else:
            run = prepared[request["way"]]
            if request["warm"]:
                run()
            start = time.perf_counter()
            run()
            answer = time.perf_counter() - start
        sys.stdout.write(f"answer {json.dumps(answer)}\n")
        sys.stdout.flush()


def prepare(library: str, folder: Path, tower: str, batch: int, prepared: dict[str, Run]) -> Iterator[dict[str, str]]:
    """Makes each way ready and runs it three times; its features end up in a file."""
    missing = [name for name in NEEDED.get(library, ()) if importlib.util.find_spec(name) is None]
    if missing:
        yield {"name": library, "failed": f"{' and '.join(missing)} not installed"}
        return
    inputs = np.load(folder / f"{tower}.npy")[:batch]
    for name, make in LIBRARIES.get(library, in_keras)(folder, tower, inputs):
        try:
            run = make()
            features = [run() for _ in range(3)][-1]
        except Exception as error:  # of whichever library: the others are still worth comparing
            yield {"name": name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        if name != EXACT:
            prepared[name] = run
        file = f"{abs(hash((name, tower, batch)))}.npy"
        np.save(folder / file, features)
        yield {"name": name, "features": file}


if __name__ == "__main__":
    if importlib.util.find_spec("triton"):
        import triton  # noqa: F401  (before TensorFlow, whose LLVM it would else take for its own)
    serve(sys.argv[1], Path(sys.argv[2]))
