"""bundle.json: what the files of a bundle are, what they take and give, in words and in numbers."""

import json
from pathlib import Path
from typing import Any

from ....keras_models.inputs import clip_bpe
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ....keras_models.registry import Variant
from ....keras_models.store.file_names import BUNDLE_FILE, FILES_RECORD
from ....keras_models.store.foreign.json_fields import (
    fields,
    flag,
    listed,
    mapping,
    nullable,
    number,
    problems,
    sha256,
    text,
    whole,
)
from ....keras_models.store.foreign.json_file import JsonError, read_json
from ....keras_models.store.writing.own_files import sha256 as file_sha256
from ...hub.model_card import LICENSE_FILE
from ...hub.record_fields import FINE_TUNED
from ...hub.terms import terms_of
from ..quantize.recipes import PLANNED, RECIPES
from ..request import LARGEST_BATCH, LARGEST_SIDE, TOWERS, DeployError, Request
from ..runtimes.registry import RUNTIMES
from .golden import FILE as GOLDEN_FILE
from .golden import FOLDER as GOLDEN_FOLDER
from .tokenizer_files import FOLDER as TOKENIZER_FOLDER

FORMAT = 2
LARGEST_FILES = 2**40
"""Bytes that a description may state."""
PROOF_FILE = "verification.json"

_REQUEST = fields(
    {
        "runtime": text(among=tuple(RUNTIMES)),
        "towers": listed(text(among=TOWERS), most=2, least=1),
        "batches": listed(whole(1, LARGEST_BATCH), most=LARGEST_BATCH),
        "recipe": text(among=RECIPES),
        "preprocess": flag,
        "pixels": nullable(listed(whole(1, LARGEST_SIDE), most=2, least=2)),
        "embed_outside": flag,
    },
    {"budget": nullable(number(0, 1))},
)
_NAMES = (*RECIPES, *PLANNED)
_TRIAL = fields({"recipe": text(among=_NAMES), "towers": mapping(fields({"bytes": whole(0, LARGEST_FILES)}), most=2)})
_CERTIFICATE = fields(
    {
        "stored": mapping(text(among=_NAMES), most=2),
        "bound": mapping(number(-3, 1), most=2),
        "tried": listed(_TRIAL, most=len(_NAMES), least=1),
    }
)
_FIELDS = fields(
    {"request": _REQUEST, "model": fields({"variant": text(200)}), "files": mapping(sha256, most=10_000)},
    {"quantization": _CERTIFICATE},
)


def describe(
    request: Request,
    variant: Variant,
    conversion: dict[str, Any],
    made: dict[str, Any],
    preprocessor: ImagePreprocessor | None,
    tokenizer: dict[str, Any] | None,
    certificate: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of bundle.json, but for the hashes of files.

    Args:
        request: what was asked for.
        variant: that the model is.
        conversion: the record of the folder that was exported.
        made: what the conversion says of the files and of the model.
        preprocessor: of images; None without the image tower.
        tokenizer: what remains of the differences of tokenizer.json; None without the text tower.
        certificate: what rounded weights cost, as measured; None for float32.
    """
    terms = terms_of(variant)
    about: dict[str, Any] = {
        "program": "mobileclip-keras",
        "format": FORMAT,
        "runtime": request.how.title,
        "request": request_to_json(request),
        "model": {
            "variant": variant.name,
            "title": title_of(variant, conversion),
            "form": "inference",
            "embed_dim": made["embed_dim"],
            "weights_sha256": conversion["weights_sha256"],
            "source": conversion["source"],
            "computes_like": conversion.get("computes_like", "training"),
        },
        "licence": {"name": terms.license, "file": LICENSE_FILE, "notice": terms.notice},
        "towers": made["parts"],
        "scores": {
            "logit_scale": made["logit_scale"],
            "logit_bias": made["logit_bias"],
            "meaning": "Features have length 1. The dot product of an image's and a text's is their cosine similarity. "
            "Times logit_scale, plus logit_bias where there is one, it is the logit. The softmax of an image's logits "
            "over some texts is the probability of each.",
        },
        "golden": f"{GOLDEN_FOLDER}/{GOLDEN_FILE}",
        "tools": request.how.versions(),
    }
    if FINE_TUNED in conversion:
        about["model"]["fine_tuned"] = conversion[FINE_TUNED]
    if made.get("float16"):
        about["float16"] = made["float16"]
    if certificate is not None:
        about["quantization"] = certificate
    if preprocessor is not None:
        about["images"] = _images(request, preprocessor, made)
    if tokenizer is not None:
        about["texts"] = _texts(made, tokenizer)
    return about


def title_of(variant: Variant, conversion: dict[str, Any]) -> str:
    """The name of a model: that of its variant, and that it was fine-tuned."""
    return f"{variant.title}, fine-tuned" if FINE_TUNED in conversion else variant.title


def _images(request: Request, preprocessor: ImagePreprocessor, made: dict[str, Any]) -> dict[str, Any]:
    size = preprocessor.image_size
    steps = [
        "Turn the picture upright by its EXIF data. Drop transparency. Make it RGB.",
        f"Resize it so that its shorter side has {size} pixels and the longer one {size} * longer / shorter, rounded "
        f"down: {preprocessor.interpolation}, antialiased (the filter widens when it shrinks), half-pixel centres, "
        "each channel rounded to 8 bits.",
        f"Cut the middle {size} x {size} pixels out.",
        "Divide by 255, subtract mean, divide by std, in float32.",
    ]
    inside = {"inside_the_graph": request.preprocess}
    if request.preprocess:
        inside = {**inside, "distance_from_pillow": made["distance_from_pillow"]}
    return {
        "image_size": size,
        "steps": steps,
        "resize": {"shorter_side": size, "interpolation": preprocessor.interpolation, "antialias": True},
        "crop": {"height": size, "width": size, "where": "centre"},
        "scale": 1 / 255,
        "mean": list(preprocessor.mean),
        "std": list(preprocessor.std),
        "channels": "RGB",
        "layout": "NHWC: batch, height, width, channel",
        "dtype": "uint8" if request.preprocess else "float32",
        **inside,
    }


def _texts(made: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    return {
        "context_length": made["context_length"],
        "dtype": "int32",
        "vocabulary_size": clip_bpe.VOCABULARY_SIZE,
        "start_id": clip_bpe.START_ID,
        "end_id": clip_bpe.END_ID,
        "padding_id": clip_bpe.PADDING_ID,
        "meaning": "start_id, the ids of the text, end_id, then padding_id up to context_length. A text that is too "
        "long is cut, and its last id becomes end_id. Padding with end_id gives wrong features without any error.",
        "tokenizer": f"{TOKENIZER_FOLDER}/tokenizer.json",
        "corpus": f"{TOKENIZER_FOLDER}/corpus.jsonl",
        "tokenizers_library": tokenizer,
    }


def request_to_json(request: Request) -> dict[str, Any]:
    """As bundle.json has it."""
    return {
        "runtime": request.runtime,
        "towers": list(request.towers),
        "batches": list(request.batches),
        "recipe": request.recipe,
        "preprocess": request.preprocess,
        "pixels": None if request.pixels is None else list(request.pixels),
        "embed_outside": request.embed_outside,
        "budget": request.budget,
    }


def request_from_json(content: dict[str, Any]) -> Request:
    """What `request_to_json` wrote."""
    return Request(
        content["runtime"],
        tuple(content["towers"]),
        tuple(content["batches"]),
        content["recipe"],
        content["preprocess"],
        None if content["pixels"] is None else (content["pixels"][0], content["pixels"][1]),
        content["embed_outside"],
        content.get("budget"),
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a record."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def file_hashes(folder: Path, without: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 of each file in a bundle, by its path with / between parts."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (*without, FILES_RECORD):
            found[name] = file_sha256(path)
    return found


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle's description."""
    return (folder / BUNDLE_FILE).is_file()


def read_bundle(folder: Path) -> dict[str, Any]:
    """The description of a bundle, every field that is relied on of the right type.

    Raises:
        DeployError: where it is missing, damaged, or of another version of this program.
    """
    path = folder / BUNDLE_FILE
    try:
        content = read_json(path, folder=folder)
    except OSError as error:
        raise DeployError(f"{folder} is no bundle: it has no {BUNDLE_FILE} that can be read.") from error
    except JsonError as error:
        raise DeployError(f"{path} cannot be read: {error}") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise DeployError(
            f"{path} has the format {version!r}, and this version reads {FORMAT}: export the bundle again."
        )
    wrong = problems(content, _FIELDS)
    if wrong:
        raise DeployError(f"{path} is not a description that export writes: {'; '.join(wrong)}.")
    return content
