"""Whether the parts of a converted folder speak of one model: variant, towers, how they compute, preprocessing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.registry import OPEN_CLIP_CONVENTIONS, VARIANTS, Variant
from ...keras_models.shown import shown_name
from ...keras_models.store.file_names import CONFIG, CONVERSION_FILE
from ...keras_models.store.folder import form_folders, read_config
from .contents import PREPROCESSING_FILE, TOKENIZER_FILES
from .record_fields import VERIFICATION_FILE

_REGISTERED = "mobileclip_keras>MobileClip{}Encoder"


def find_disagreements(
    folder: Path, conversion: dict[str, Any], verification: dict[str, Any], missing: list[str]
) -> list[str]:
    """What does not fit together, in words.

    Args:
        folder: a converted one.
        conversion: its record.
        verification: its record.
        missing: files that it lacks, which are known already.
    """
    name = conversion["variant"]
    variant = VARIANTS.get(name)
    if variant is None:
        return [f"{CONVERSION_FILE} says the variant {shown_name(name)}, which there is not"]
    found = []
    # A folder that was never verified says no variant there, and that it was never verified.
    if verification.get("variant", name) != name:
        found.append(_other(VERIFICATION_FILE, "variant", verification["variant"], name))
    places = form_folders(folder)
    for form, place in places.items():
        path = (place / CONFIG).relative_to(folder).as_posix()
        config = read_config(place, folder)["config"]
        for key, (is_so, should) in _pairs(config, expected(variant, conversion, form)):
            if is_so != should:
                found.append(_other(path, key, is_so, should))
    held = conversion["weights_sha256"]
    if held.keys() != places.keys():
        found.append(_other(CONVERSION_FILE, "weights_sha256", " and ".join(held), " and ".join(places)))
    if conversion.get("towers") != "text" and PREPROCESSING_FILE not in missing:
        found += _preprocessing(folder, variant, conversion)
    if conversion.get("towers") != "image" and not any(path in missing for path in TOKENIZER_FILES):
        found += _tokenizer(folder)
    return found


def expected(variant: Variant, conversion: dict[str, Any], form: str) -> dict[str, Any]:
    """What config.json says of a model that was converted like this, by the path of the keys."""
    source = conversion["source"]
    towers, size = conversion.get("towers", "both"), source.get("image_size")
    conventions = {"norm_epsilon": variant.image_norm_epsilon, "stem_padding": variant.image_stem_padding}
    if conversion.get("computes_like") == "open_clip" and variant.image_tower == "vit_b16":
        conventions = OPEN_CLIP_CONVENTIONS
    both = {"embed_dim": variant.embed_dim, "form": form}
    image = {**both, "backbone": variant.image_tower, "image_size": size or variant.image_size, **conventions}
    image["position_size"] = size
    text = {**both, "backbone": variant.text_tower}
    return {
        "variant": variant.name,
        "logit_bias": bool(source.get("logit_bias")),
        "dtype": conversion["dtype"],
        "image_encoder": image if towers != "text" else None,
        "text_encoder": text if towers != "image" else None,
    }


def _pairs(config: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What a config says and should say, by the name of the field."""
    yield "variant", (config.get("variant"), wanted["variant"])
    yield "logit_bias", (bool(config.get("logit_bias")), wanted["logit_bias"])
    yield "dtype", (_policy(config), wanted["dtype"])
    for tower in ("image", "text"):
        is_so, should = config[f"{tower}_encoder"], wanted[f"{tower}_encoder"]
        if is_so is None or should is None:
            yield f"{tower} tower", (_there(is_so), _there(should))
            continue
        yield f"{tower}_encoder", (is_so.get("registered_name"), _REGISTERED.format(tower.capitalize()))
        yield f"{tower}_encoder.dtype", (_policy(is_so["config"]), wanted["dtype"])
        for key, value in should.items():
            yield f"{tower}_encoder.{key}", (is_so["config"].get(key), value)


def _there(tower: Any) -> str:
    return "none" if tower is None else "there"


def _policy(config: dict[str, Any]) -> Any:
    """The name of a dtype policy as Keras writes it."""
    dtype = config.get("dtype")
    while isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name") if isinstance(dtype.get("config"), dict) else None
    return dtype


def _other(file: str, key: str, is_so: Any, should: Any) -> str:
    said, wanted = (shown_name(str(value)) if value is not None else "nothing" for value in (is_so, should))
    return f"{file} says {key}: {said}, where it should be {wanted}"


def _preprocessing(folder: Path, variant: Variant, conversion: dict[str, Any]) -> Iterator[str]:
    try:
        held = ImagePreprocessor.from_pretrained(folder)
    except MobileClipError as error:
        yield str(error).rstrip(".")
        return
    wanted = ImagePreprocessor.from_variant(variant.name)
    wanted.image_size = conversion["source"].get("image_size") or wanted.image_size
    for key, value in vars(wanted).items():
        if vars(held)[key] != value:
            yield _other(PREPROCESSING_FILE, key, vars(held)[key], value)


def _tokenizer(folder: Path) -> Iterator[str]:
    try:
        held = Tokenizer.from_pretrained(folder)
    except MobileClipError as error:
        yield str(error).rstrip(".")
        return
    if held.context_length != Tokenizer().context_length:
        yield _other(TOKENIZER_FILES[1], "model_max_length", held.context_length, Tokenizer().context_length)
