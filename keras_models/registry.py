"""The variants: what each is made of, how its images are prepared, where it lives, how good it is.

All are Apple's but one, which this project trained: `mobileclip_shapes`.

Sources: Apple's model cards and tables of MobileCLIP (arXiv 2311.17049) and MobileCLIP2 (arXiv 2508.20691).
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import MobileClipError

APPLE, OURS = "Apple", "mobileclip-keras"
"""Who publishes weights: Apple, or this project."""
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# open_clip computes every ViT-B/16 like this, whatever code trained the weights.
OPEN_CLIP_CONVENTIONS = {"norm_epsilon": 1e-6, "stem_padding": 0}


class UnknownVariantError(MobileClipError, ValueError):
    """No published variant has the name given."""


@dataclass(frozen=True)
class HubFile:
    """One file on the Hugging Face Hub."""

    repo: str
    file: str
    layout: str
    """Names of its tensors: "apple", "open_clip" or "timm"."""

    @property
    def is_safetensors(self) -> bool:
        return self.file.endswith(".safetensors")


@dataclass(frozen=True)
class OwnFile:
    """One file of this package, with weights that this project trained."""

    file: str
    layout: str
    """Names of its tensors, as in `HubFile`."""

    @property
    def is_safetensors(self) -> bool:
        return self.file.endswith(".safetensors")


@dataclass(frozen=True)
class Variant:
    """One published checkpoint."""

    name: str
    image_tower: str
    """A key of architectures.IMAGE_TOWERS."""
    text_tower: str
    """A key of architectures.TEXT_TOWERS."""
    embed_dim: int
    """Length of the features that both towers end in."""
    image_size: int
    """Height and width, in pixels, of the images it was trained on."""
    published: HubFile | OwnFile
    """The file that its publisher publishes."""
    image_parameters: float
    """Parameters of the folded image tower, in millions."""
    text_parameters: float
    """Parameters of the text tower, in millions."""
    imagenet_top1: float | None
    """Zero-shot accuracy on ImageNet-1k that Apple reports, in percent; None for weights that know no photographs."""
    copies: tuple[HubFile, ...] = ()
    """The same weights, published elsewhere."""
    image_norm_epsilon: float = 1e-5
    """Epsilon of a ViT image tower's LayerNorms."""
    image_stem_padding: int = 0
    """Zeros around the image in the first convolution of a ViT image tower."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    """How images are resized: "bilinear" or "bicubic"."""
    latency_ms: tuple[float, float] = (0.0, 0.0)
    """Milliseconds for (one image, one text) on an iPhone 12 Pro Max, as Apple reports."""
    publisher: str = APPLE
    """Whose weights these are: APPLE or OURS."""
    license: str = "apple-amlr"
    """Of the weights, as the Hub names it."""

    @property
    def short_name(self) -> str:
        """What people type: "s2", "2-s2"."""
        return self.name.replace("mobileclip2_", "2-").replace("mobileclip_", "")

    @property
    def title(self) -> str:
        """What its publisher calls it: "MobileCLIP-S2"."""
        if isinstance(self.published, OwnFile):
            return self.name.replace("mobileclip_", "MobileCLIP-")
        return self.published.repo.split("/")[1]

    @property
    def is_ours(self) -> bool:
        """Whether this project trained it."""
        return self.publisher == OURS

    @property
    def hub_files(self) -> tuple[HubFile, ...]:
        """Every file on the Hub that holds its weights, the published one first."""
        return (self.published, *self.copies) if isinstance(self.published, HubFile) else self.copies

    @property
    def sources(self) -> tuple[HubFile | OwnFile, ...]:
        """Every file that holds both towers' weights, the published one first."""
        return (self.published, *(copy for copy in self.copies if copy.layout != "timm"))


def _apple(repo: str, file: str, layout: str) -> HubFile:
    return HubFile(f"apple/{repo}", file, layout)


def _open_clip(repo: str) -> HubFile:
    return HubFile(repo, "open_clip_model.safetensors", "open_clip")


def _timm(repo: str) -> HubFile:
    return HubFile(repo, "model.safetensors", "timm")


# The two ViT-B/16 hold the same tensors but compute differently. MobileCLIP-B and B-LT were trained on Apple's own
# ViT: LayerNorms with 1e-5, and a first convolution (4 x 4, stride 4) padded by one pixel. MobileCLIP2-B was trained
# in open_clip on timm's: 1e-6, and no padding. open_clip runs all three timm's way, also B and B-LT, which moves
# their logits on random images by up to about 0.1; here each is run as it was trained.
_VIT_OF_APPLE: dict[str, Any] = {"image_norm_epsilon": 1e-5, "image_stem_padding": 1}
_VIT_OF_TIMM: dict[str, Any] = {"image_norm_epsilon": 1e-6, "image_stem_padding": 0}

_OPENAI: dict[str, Any] = {"mean": OPENAI_MEAN, "std": OPENAI_STD}

_ALL = (
    Variant(
        "mobileclip_s0",
        "mci0",
        "mct",
        512,
        256,
        _apple("MobileCLIP-S0", "mobileclip_s0.pt", "apple"),
        copies=(_timm("apple/mobileclip_s0_timm"),),
        image_parameters=11.356992,
        text_parameters=42.435072,
        latency_ms=(1.5, 1.6),
        imagenet_top1=67.786,
    ),
    Variant(
        "mobileclip_s1",
        "mci1",
        "transformer_512",
        512,
        256,
        _apple("MobileCLIP-S1", "mobileclip_s1.pt", "apple"),
        copies=(_open_clip("apple/MobileCLIP-S1-OpenCLIP"), _timm("apple/mobileclip_s1_timm")),
        image_parameters=21.460544,
        text_parameters=63.428096,
        latency_ms=(2.5, 3.3),
        imagenet_top1=72.616,
    ),
    Variant(
        "mobileclip_s2",
        "mci2",
        "transformer_512",
        512,
        256,
        _apple("MobileCLIP-S2", "mobileclip_s2.pt", "apple"),
        copies=(_open_clip("apple/MobileCLIP-S2-OpenCLIP"), _timm("apple/mobileclip_s2_timm")),
        image_parameters=35.702480,
        text_parameters=63.428096,
        latency_ms=(3.6, 3.3),
        imagenet_top1=74.438,
    ),
    Variant(
        "mobileclip_b",
        "vit_b16",
        "transformer_512_causal",
        512,
        224,
        _apple("MobileCLIP-B", "mobileclip_b.pt", "apple"),
        copies=(_open_clip("apple/MobileCLIP-B-OpenCLIP"), _timm("apple/mobileclip_b_timm")),
        **_VIT_OF_APPLE,
        image_parameters=86.348544,
        text_parameters=63.428096,
        latency_ms=(10.4, 3.3),
        imagenet_top1=76.824,
    ),
    Variant(
        "mobileclip_blt",
        "vit_b16",
        "transformer_512_causal",
        512,
        224,
        _apple("MobileCLIP-B-LT", "mobileclip_blt.pt", "apple"),
        copies=(_open_clip("apple/MobileCLIP-B-LT-OpenCLIP"), _timm("apple/mobileclip_b_lt_timm")),
        **_VIT_OF_APPLE,
        image_parameters=86.348544,
        text_parameters=63.428096,
        latency_ms=(10.4, 3.3),
        imagenet_top1=77.224,
    ),
    Variant(
        "mobileclip_s3",
        "mci3",
        "transformer_768",
        768,
        256,
        _apple("MobileCLIP-S3", "mobileclip_s3.pt", "open_clip"),
        image_parameters=125.1,
        text_parameters=123.6,
        latency_ms=(8.0, 6.6),
        imagenet_top1=78.29,
        **_OPENAI,
    ),
    Variant(
        "mobileclip_s4",
        "mci4",
        "transformer_768",
        768,
        256,
        _apple("MobileCLIP-S4", "mobileclip_s4.pt", "open_clip"),
        image_parameters=321.6,
        text_parameters=123.6,
        latency_ms=(19.6, 6.6),
        imagenet_top1=79.406,
        **_OPENAI,
    ),
    Variant(
        "mobileclip_l14",
        "vit_l14",
        "transformer_768",
        768,
        224,
        _apple("MobileCLIP-L-14", "mobileclip_l14.pt", "open_clip"),
        interpolation="bicubic",
        image_parameters=304.0,
        text_parameters=123.6,
        latency_ms=(57.9, 6.6),
        imagenet_top1=79.528,
        **_OPENAI,
    ),
    Variant(
        "mobileclip2_s0",
        "mci0",
        "transformer_512",
        512,
        256,
        _apple("MobileCLIP2-S0", "mobileclip2_s0.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-S0-OpenCLIP"), _timm("timm/fastvit_mci0.apple_mclip2_dfndr2b")),
        image_parameters=11.4,
        text_parameters=63.4,
        latency_ms=(1.5, 3.3),
        imagenet_top1=71.534,
    ),
    Variant(
        "mobileclip2_s2",
        "mci2",
        "transformer_512",
        512,
        256,
        _apple("MobileCLIP2-S2", "mobileclip2_s2.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-S2-OpenCLIP"), _timm("timm/fastvit_mci2.apple_mclip2_dfndr2b")),
        image_parameters=35.7,
        text_parameters=63.4,
        latency_ms=(3.6, 3.3),
        imagenet_top1=77.236,
    ),
    Variant(
        "mobileclip2_b",
        "vit_b16",
        "transformer_512_causal",
        512,
        224,
        _apple("MobileCLIP2-B", "mobileclip2_b.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-B-OpenCLIP"), _timm("timm/vit_base_mci_224.apple_mclip2_dfndr2b")),
        **_VIT_OF_TIMM,
        image_parameters=86.3,
        text_parameters=63.4,
        latency_ms=(10.4, 3.3),
        imagenet_top1=79.414,
    ),
    Variant(
        "mobileclip2_s3",
        "mci3",
        "transformer_768",
        768,
        256,
        _apple("MobileCLIP2-S3", "mobileclip2_s3.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-S3-OpenCLIP"), _timm("timm/fastvit_mci3.apple_mclip2_dfndr2b")),
        image_parameters=125.1,
        text_parameters=123.6,
        latency_ms=(8.0, 6.6),
        imagenet_top1=80.684,
        **_OPENAI,
    ),
    Variant(
        "mobileclip2_s4",
        "mci4",
        "transformer_768",
        768,
        256,
        _apple("MobileCLIP2-S4", "mobileclip2_s4.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-S4-OpenCLIP"), _timm("timm/fastvit_mci4.apple_mclip2_dfndr2b")),
        image_parameters=321.6,
        text_parameters=123.6,
        latency_ms=(19.6, 6.6),
        imagenet_top1=81.854,
        **_OPENAI,
    ),
    Variant(
        "mobileclip2_l14",
        "vit_l14",
        "transformer_768",
        768,
        224,
        _apple("MobileCLIP2-L-14", "mobileclip2_l14.pt", "open_clip"),
        copies=(_open_clip("timm/MobileCLIP2-L-14-OpenCLIP"),),
        interpolation="bicubic",
        image_parameters=304.0,
        text_parameters=123.6,
        latency_ms=(57.9, 6.6),
        imagenet_top1=81.904,
        **_OPENAI,
    ),
    Variant(
        "mobileclip_shapes",
        "mci_shapes",
        "mct_shapes",
        64,
        64,
        OwnFile("mobileclip_shapes.safetensors", "apple"),
        image_parameters=0.672744,
        text_parameters=3.340736,
        imagenet_top1=None,
        publisher=OURS,
        license="apache-2.0",
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ALL}


def get_variant(name: str) -> Variant:
    """The variant that `name` means, however it is spelled.

    Case, separators, the publisher ("apple/" or "timm/"), a file ending and a converted copy's "-keras" are passed
    over: "s2", "MobileCLIP-S2", "apple/MobileCLIP2-S2", "2-s2" and "mobileclip2_s2.pt" are all understood.

    Raises:
        UnknownVariantError: listing the known ones, nearest first.
    """
    if isinstance(name, Variant):
        return name
    found = find_variant(name)
    if found is not None:
        return found
    key = _key(str(name))
    ordered = sorted(_KEYS, key=lambda known: -difflib.SequenceMatcher(None, key, known).ratio())
    names = list(dict.fromkeys(_KEYS[known].name for known in ordered))
    raise UnknownVariantError(f"There is no variant {name!r}. The variants, nearest first: {_listed(names)}.")


def find_variant(name: str) -> Variant | None:
    """As `get_variant`, but None where `name` means no variant."""
    return _KEYS.get(_key(name)) if isinstance(name, str) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(
        f"{VARIANTS[name].short_name} ({name}{', not of Apple' if VARIANTS[name].is_ours else ''})" for name in names
    )


def _key(name: str) -> str:
    name = re.sub(r"^(apple|timm)/", "", name.strip().lower())
    name = re.sub(r"\.(pt|pth|bin|safetensors)$", "", name)
    name = re.sub(r"[-_. ](keras|openclip|open_clip|timm)$", "", name)
    name = re.sub(r"[-_. ]", "", name)
    return re.sub(r"^mobileclip", "", name).removeprefix("v1").replace("v2", "2")


_KEYS = {_key(variant.name): variant for variant in _ALL}
_KEYS |= {_key(variant.hub_files[0].repo): variant for variant in _ALL if variant.hub_files}
