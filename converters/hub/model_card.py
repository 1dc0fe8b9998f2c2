"""The model card of a folder of converted weights. What it must say follows from whose weights they are: terms.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import Variant
from ...keras_models.shown import shown_name
from .card_figures import evaluation_section, model_index
from .terms import APPLES, Terms, asset, card_parts

CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE"
PICTURE_FILE = "verification.png"
# What a model of these towers is for, in the Hub's words: the first is its task, all are tags.
TASKS = {
    "both": ("zero-shot-image-classification", "image-feature-extraction"),
    "image": ("image-feature-extraction",),
    "text": ("feature-extraction",),
}


_MEANINGFUL = "\\`*[]<>|&~$"


class CardError(MobileClipError, ValueError):
    """A model card lacks something that the Hub or the licence needs; the message lists everything."""


@dataclass(frozen=True)
class Check:
    """One row of the verification: how far one form on one backend is from PyTorch.

    Errors are those of the logits, against PyTorch's float64 run. A number that is not finite is None.
    """

    form: str
    """"train" or "inference"."""
    backend: str
    """What Keras ran on: "tensorflow", "jax" or "torch"."""
    float64_difference: float | None
    """Largest difference of the unnormalised features in float64, relative to the largest of them."""
    rms_ratio: float | None
    """Root mean square of Keras's float32 error, over that of PyTorch's."""
    max_ratio: float | None
    """Largest of Keras's float32 errors, over the largest of PyTorch's."""
    same_top1: bool
    """Whether every image and every text got the same best match."""
    program: str = "encode"
    """What computed: "encode" for encode_image and encode_text, "predict", "graph", "compile"."""


@dataclass(frozen=True)
class CostRow:
    """What a lower precision costs on the device of the verification. A number that is not finite is None."""

    way: str
    """"bfloat16" and the like."""
    rms: float | None
    """Of the logits' errors at scale 100."""
    maximum: float | None
    smallest_cosine: float | None
    """Of a feature to PyTorch's."""
    top1_differences: int


@dataclass(frozen=True)
class CardInfo:
    """What a model card says of one conversion."""

    repo_id: str
    """Where the usage examples load from: "user/name"."""
    variant: Variant
    source_file: str
    """Name of the checkpoint that was converted."""
    source_sha256: str
    forms: tuple[str, ...]
    """The forms stored: "train", "inference" or both."""
    towers: str = "both"
    """"both", or the one that is stored: "image" or "text"."""
    image_size: int | None = None
    """Height and width of the images; None for the variant's own."""
    logit_bias: bool = False
    """Whether the logits have a bias, so that each label's probability is its own."""
    left: tuple[str, ...] = ()
    """Tensors of the checkpoint that were left out on request."""
    dtype: str = "float32"
    """Of the stored weights."""
    source_dtype: str = "float32"
    """Of the checkpoint's tensors."""
    reference: str = ""
    """What Keras was compared with: "open_clip 3.3.0 on PyTorch 2.6.0"."""
    images: int = 0
    """How many images were compared."""
    texts: int = 0
    """How many texts, each with every image."""
    checks: tuple[Check, ...] = ()
    """Empty for weights that were not verified."""
    device: str = ""
    """That Keras computed on; "" where a record does not say."""
    switches: tuple[str, ...] = ()
    """The switches that let float32 be computed with fewer bits, as they were set: "name = value"."""
    costs: tuple[CostRow, ...] = ()
    """Of lower precision; empty where the device has none."""
    certificates: tuple[dict[str, Any], ...] = ()
    """Of evaluations of exactly these weights."""
    fine_tuned: dict[str, Any] | None = None
    """How the weights came from the original's, as conversion.json says; None for the original's own."""


def render_card(info: CardInfo) -> str:
    """The README.md of a converted model, in the Hub's form: YAML front matter, then Markdown."""
    variant = info.variant
    use = Template(asset(f"use_{info.towers}.py.txt")).substitute(
        repo_id=info.repo_id,
        embed_dim=variant.embed_dim,
        probabilities=(
            "keras.ops.sigmoid(model.scale() * similarities + model.logit_bias)"
            if info.logit_bias
            else "keras.ops.softmax(100 * similarities)"
        ),
    )
    return Template(asset("model_card.md")).substitute(
        use=use.rstrip(),
        pipeline_tag=TASKS[info.towers][0],
        tags="\n".join(f"- {task}" for task in TASKS[info.towers]),
        towers="\n".join(_tower_rows(info)),
        **card_parts(variant, info.towers == "both", info.fine_tuned is not None),
        input={"both": "an image or a text", "image": "an image", "text": "a text"}[info.towers],
        title=variant.title,
        repo_id=info.repo_id,
        embed_dim=variant.embed_dim,
        forms=" and ".join(f"{form} form" for form in info.forms),
        dtype=_plain(info.dtype),
        source_file=_code(info.source_file),
        source_sha256=_code(info.source_sha256),
        changes="\n".join(f"- {change}" for change in _changes(info)),
        verification=_verification(info),
        model_index=model_index(variant.title, info.certificates),
        evaluation=evaluation_section(info.certificates),
    )


def _tower_rows(info: CardInfo) -> list[str]:
    """The rows of the model's table that depend on which towers are stored."""
    variant, size = info.variant, info.image_size or info.variant.image_size
    resized = {"bilinear": "bilinearly", "bicubic": "bicubically"}[variant.interpolation]
    image = (
        f"| Image tower | `{variant.image_tower}`, {variant.image_parameters:.1f} million parameters once folded |",
        f"| Images | {size} × {size} pixels, resized {resized}, mean {_triple(variant.mean)}, "
        f"standard deviation {_triple(variant.std)} |",
    )
    text = (
        f"| Text tower | `{variant.text_tower}`, {variant.text_parameters:.1f} million parameters |",
        "| Texts | English, at most 77 tokens of CLIP's byte-pair encoding, padded with 0 |",
    )
    if info.towers == "both":
        return [image[0], text[0], image[1], text[1]]
    return [*(image if info.towers == "image" else text), f"| Not in here | the {_other(info.towers)} tower |"]


def _other(tower: str) -> str:
    return "text" if tower == "image" else "image"


def _plain(text: str) -> str:
    """Text of a record's as it is, where Markdown and HTML would take it for more."""
    return "".join(f"&#{ord(each)};" if each in _MEANINGFUL else each for each in shown_name(text))


def _code(text: str) -> str:
    """Text of a record's between backticks, also in a table."""
    return shown_name(text).replace("`", "\\x60").replace("|", "\\x7c")


def validate_card(text: str, terms: Terms = APPLES) -> dict[str, Any]:
    """Checks a card for what the Hub's users and the licence need, and returns its front matter.

    Args:
        text: of the card.
        terms: of the weights.

    Raises:
        CardError: listing everything that is wrong.
    """
    metadata = _front_matter(text)
    wrong = [
        f"{key} is {metadata.get(key)!r} and should be {value!r}"
        for key, value in {"library_name": "keras", "license": terms.license}.items()
        if metadata.get(key) != value
    ]
    tasks = sorted({tasks[0] for tasks in TASKS.values()})
    if metadata.get("pipeline_tag") not in tasks:
        wrong.append(f"pipeline_tag is {metadata.get('pipeline_tag')!r} and should be one of {', '.join(tasks)}")
    if terms.base and not str(metadata.get("base_model", "")).startswith(terms.base):
        wrong.append("base_model does not name the repository of Apple's checkpoint (apple/…)")
    if not terms.base and "base_model" in metadata:
        wrong.append(f"base_model is {metadata['base_model']!r}, and these weights are no copy of another's")
    if "mobileclip" not in (metadata.get("tags") or ()):
        wrong.append("tags lack mobileclip")
    # Somebody may have edited the card and wrapped its lines.
    body = " ".join(text.replace("\n> ", "\n").split())
    for needed in (*terms.needed, f"]({LICENSE_FILE})"):
        if needed not in body:
            wrong.append(f"the text lacks {needed!r}")
    if wrong:
        raise CardError(f"The model card {CARD_FILE} cannot be published: {'; '.join(wrong)}.")
    return metadata


def _front_matter(text: str) -> dict[str, Any]:
    import yaml

    start, separator, rest = text.partition("---\n")
    block, end, _ = rest.partition("\n---\n")
    if start or not separator or not end:
        raise CardError(f"The model card {CARD_FILE} does not start with metadata between two lines of ---.")
    try:
        metadata = yaml.safe_load(block)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise CardError(f"The metadata of the model card {CARD_FILE} are not YAML: {reason}.") from error
    if not isinstance(metadata, dict):
        raise CardError(f"The metadata of the model card {CARD_FILE} are not a mapping of names to values.")
    return metadata


def _changes(info: CardInfo) -> list[str]:
    changes = [
        f"Converted from PyTorch (`{_code(info.source_file)}`) to Keras 3 and stored as HDF5 in Keras's own layout.",
        "Tensors transposed to Keras's order of axes: convolution kernels from (out, in, height, width) to "
        "(height, width, in, out), dense kernels from (out, in) to (in, out).",
    ]
    if "inference" in info.forms:
        changes.append(
            "In the inference form, the parallel branches of the blocks, the batch normalisations, the layer "
            "scales and the skip connections that are linear were folded, in float64, into the convolution "
            "or dense layer beside them: fewer layers that compute the same function."
        )
    if "train" in info.forms:
        whose = "original" if info.fine_tuned is None else "fine-tuned model"
        changes.append(f"In the train form, every tensor of the {whose} is there, with its own values.")
    if info.dtype != info.source_dtype:
        changes.append(f"Numbers converted from {_plain(info.source_dtype)} to {_plain(info.dtype)}.")
    if info.towers != "both":
        changes.append(f"Only the {info.towers} tower is here; the {_other(info.towers)} tower is not.")
    if info.image_size not in (None, variant_size := info.variant.image_size):
        changes.append(
            f"The position embeddings are for images of {info.image_size} × {info.image_size} pixels, as in the "
            f"converted file, and not of {variant_size} × {variant_size}."
        )
    if info.left:
        changes.append(f"Left out, as no part of the model: {', '.join(f'`{_code(name)}`' for name in info.left)}.")
    added = {"image": "the settings of image preprocessing", "text": "the tokenizer's files"}
    added["both"] = f"{added['text']} and {added['image']}"
    changes.append(f"Added: {added[info.towers]}.")
    if info.fine_tuned is None:
        return [*changes, "Nothing was retrained, fine-tuned, pruned or quantised."]
    return [tuning_words(info.fine_tuned), *changes, "Nothing was pruned or quantised."]


def tuning_words(record: dict[str, Any]) -> str:
    """How weights were fine-tuned, and from what: a paragraph of Markdown."""
    before = record["from"]
    source = f", converted from `{_code(before['file'])}`" if before["file"] else ""
    again = ", which were fine-tuned before" if before["fine_tuned"] else ""
    kept = "" if record["alpha"] == 1 else f" Of the change of each weight, {record['alpha']:g} was kept (WiSE-FT)."
    return (
        f"**Fine-tuned**: {record['steps']:,} steps on {record['pairs']:,} pairs of images and texts. The weights "
        f"before have the SHA-256 `{_code(before['weights_sha256'])}`{source}{again}.{kept}"
    )


def _verification(info: CardInfo) -> str:
    if not info.checks:
        return "**These weights have not been verified** against PyTorch."
    header = (
        "Form",
        "Keras on",
        "Computed by",
        "Difference in float64",
        "Error in float32, rms",
        "Error in float32, largest",
        "Same best match",
    )
    rows = [
        (
            check.form,
            check.backend,
            f"`{_code(check.program)}`",
            "too large" if check.float64_difference is None else f"{check.float64_difference:.1e}",
            *("too large" if x is None else f"{x:.2f} ×" for x in (check.rms_ratio, check.max_ratio)),
            "yes" if check.same_top1 else "**no**",
        )
        for check in info.checks
    ]
    device = f" Keras ran on {_plain(info.device)}, in full float32." if info.device else ""
    if info.switches:
        device += f" For that, {', '.join(f'`{_code(switch)}`' for switch in info.switches)}."
    alone = (
        ""
        if info.towers == "both"
        else " In place of logits, which need both towers, similarities to 64 fixed directions are compared."
    )
    return f"""\
{_count(info.images, info.texts)} went through these weights and through {_plain(info.reference)}, in float64 and in
float32.{device}{alone}

{_table(header, rows)}

"Difference in float64" is the largest difference of the features before normalisation, relative to the
largest of the features. "Error in float32" is how far the logits in float32 are from PyTorch's in float64, as
a multiple of the same error of PyTorch's own float32, the largest of several runs. "Computed by" names the program:
`encode` is `encode_image` and `encode_text`, `graph` what `torch.compile` makes of a model, run by PyTorch's own
kernels, and `compile` the same by its compiler. All numbers are in `verification.json`.
{_costs(info)}
![Errors of each form and stage, and logits of Keras against those of PyTorch]({PICTURE_FILE})"""


def _costs(info: CardInfo) -> str:
    """What lower precision costs, between empty lines; an empty line where nothing was measured."""
    if not info.costs:
        return ""
    header = ("Computed in", "Error of logits, rms", "Largest", "Smallest cosine to PyTorch", "Other best matches")
    rows = [
        (
            _plain(cost.way),
            *("too large" if x is None else f"{x:.1e}" for x in (cost.rms, cost.maximum)),
            "none" if cost.smallest_cosine is None else f"{cost.smallest_cosine:.6f}",
            str(cost.top1_differences),
        )
        for cost in info.costs
    ]
    return f"""
Lower precision is faster and not equal. On the same inputs and device it costs this much (logits at scale 100):

{_table(header, rows)}
"""


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def _count(images: int, texts: int) -> str:
    """Of one tower alone, nothing went through the other."""
    return " and ".join(f"{count} {kind}" for count, kind in ((images, "images"), (texts, "texts")) if count)


def _triple(values: tuple[float, float, float]) -> str:
    return f"({', '.join(f'{value:.8g}' for value in values)})"
