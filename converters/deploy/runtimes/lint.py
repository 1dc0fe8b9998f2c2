"""Which operations of an exported tower an accelerator would refuse, and the layer that each comes from.

An accelerator that refuses one operation leaves it to the processor, and copies between the two; some give wrong
results without an error. `gpu_delegate` and `webgpu` hold what each takes.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from . import gpu_delegate, webgpu
from .operation import Operation

RULES = {"gpu_delegates": gpu_delegate.reason, "webgpu": webgpu.reason}
"""What each kind of accelerator refuses, with the reason in words."""
WHERE = {"litert": "gpu_delegates", "onnx": "webgpu", "web": "gpu_delegates"}
"""The accelerator that a runtime's files are looked at for."""

NUMBERED = ("blocks", "downsample", "layer_scale", "patch_embed", "stages", "stem")
"""Parts of a tower that have numbers of their own."""
WITHIN = ("moments", "clip_by_value")
"""Operations of several parts; others begin with a capital, as "MatMul" in "fc1/MatMul/Fusion"."""
FUSED = {"tfl.embedding_lookup": "text_encoder/backbone/token_embedding"}
"""What LiteRT's converter names itself, and the layer that it is."""
_COUNTER = re.compile(r"(?P<name>.+)_\d+")


@dataclass(frozen=True)
class Finding:
    """An operation that is refused."""

    kind: str
    layer: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As bundle.json has it."""
        return asdict(self)


def lint(operations: Iterable[Operation], where: str = "gpu_delegates") -> list[Finding]:
    """Everything that an accelerator would refuse, in the order of computation.

    Args:
        operations: of a file.
        where: a key of RULES.
    """
    found = []
    for operation in operations:
        reason = RULES[where](operation)
        if reason is not None:
            found.append(Finding(operation.kind, layer_of(operation.name), reason))
    return found


def layer_of(name: str) -> str:
    """The path of the layer in the model, out of the name of a tensor.

    TensorFlow adds a number to a name that it has given before, and converters join names by semicolons.
    """
    path = name.split(";")[0].removeprefix("Stateful").removeprefix("PartitionedCall/")
    if path in FUSED:
        return FUSED[path]
    *layers, operation = path.split("/")
    while layers and (layers[-1][0].isupper() or layers[-1] in WITHIN):
        layers.pop()
    return "/".join(map(_uncounted, layers)) or operation


def _uncounted(name: str) -> str:
    """A layer's name without the number that TensorFlow added."""
    counted = _COUNTER.fullmatch(name)
    return name if counted is None or counted["name"] in NUMBERED else counted["name"]
