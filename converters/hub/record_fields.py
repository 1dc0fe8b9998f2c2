"""What the records of a converted folder may say: the type and the range of each field.

A field may be missing, because older versions wrote fewer; whoever needs it is told by `records.read_record`.
"""

from ...keras_models.architectures import FORMS
from ...keras_models.backend_choice import BACKENDS
from ...keras_models.store.file_names import CONVERSION_FILE
from ...keras_models.store.foreign.config_fields import LARGEST_IMAGE
from ...keras_models.store.foreign.json_fields import (
    Check,
    fields,
    flag,
    listed,
    mapping,
    nullable,
    number,
    sha256,
    text,
    whole,
)

VERIFICATION_FILE = "verification.json"
FINE_TUNED = "fine_tuned"
"""The field of a conversion's record that only a fine-tuned folder has."""

_NAME = text(200)
_FILE_NAME = text(255)
# Numbers that were not finite are null.
_ERROR = nullable(number(0, 1e300))
_FORM = text(among=FORMS)
_HASHES = mapping(sha256, most=len(FORMS))

_SOURCE = fields(
    {},
    {
        **dict.fromkeys(("layout", "form", "dtype", "weights"), _NAME),
        "file": _FILE_NAME,
        "sha256": sha256,
        "image_size": whole(1, LARGEST_IMAGE),
        "logit_bias": flag,
        "left": listed(text(), most=100_000),
    },
)
_TUNED = fields(
    {},
    {
        "from": fields(
            {},
            {"file": nullable(_FILE_NAME), "sha256": nullable(sha256), "weights_sha256": sha256, "fine_tuned": flag},
        ),
        "data": text(4096),
        "pairs": whole(0, 1 << 53),
        "steps": whole(0, 1 << 53),
        "alpha": number(0, 1),
    },
)
_CONVERSION = fields(
    {},
    {
        "variant": _NAME,
        "towers": text(among=("both", "image", "text")),
        "source": _SOURCE,
        "weights_sha256": _HASHES,
        "dtype": _NAME,
        "notes": listed(text(20_000), most=1000),
        "computes_like": text(among=("open_clip", "training")),
        "versions": mapping(_NAME, most=100),
        FINE_TUNED: _TUNED,
    },
)
_EXACT = fields(
    {}, {"form": _FORM, **dict.fromkeys(("image", "text", "logit_scale", "logit_bias"), _ERROR), "passed": flag}
)
_ROUNDING = fields(
    {},
    {
        "form": _FORM,
        "program": _NAME,
        **dict.fromkeys(("rms", "maximum", "torch_rms", "torch_maximum", "length_error"), _ERROR),
        **dict.fromkeys(("rms_ratio", "max_ratio"), _ERROR),
        "top1_differences": whole(0, 1_000_000),
        "passed": flag,
    },
)
_INPUTS = {"images": listed(text(), most=1000), "texts": listed(text(), most=1000)}
_SAMPLE = fields({}, {**_INPUTS, "logits": listed(listed(number(-101, 101), most=100), most=100)})
_COST = fields(
    {},
    {
        "way": _NAME,
        "rms": _ERROR,
        "maximum": _ERROR,
        "smallest_cosine": nullable(number(-1.01, 1.01)),
        "top1_differences": whole(0, 1_000_000),
    },
)
_DEVICE = fields(
    {},
    {
        "name": _NAME,
        "processor": _NAME,
        "switches_found": mapping(_NAME, most=100),
        "switches_verified": mapping(_NAME, most=100),
    },
)
_VERIFICATION = fields(
    {},
    {
        "passed": flag,
        "why": text(),
        "reason": nullable(text(10_000)),
        "variant": _NAME,
        "backend": text(among=BACKENDS),
        "device": _DEVICE,
        "versions": mapping(_NAME, most=100),
        "inputs": fields({}, _INPUTS),
        "float64": listed(_EXACT, most=100),
        "float32": listed(_ROUNDING, most=100),
        "measured_not_judged": listed(_COST, most=100),
        "convention": nullable(text(10_000)),
        "sample": nullable(_SAMPLE),
        "weights_sha256": _HASHES,
        "files_sha256": mapping(sha256, most=100),
    },
)
RECORDS: dict[str, Check] = {CONVERSION_FILE: _CONVERSION, VERIFICATION_FILE: _VERIFICATION}
"""By the name of the file."""
