"""The model card carries what the Hub reads, what Apple's licence asks for, and code to paste."""

import hashlib
import re
from typing import Any

import pytest

from mobileclip_keras.converters.hub.model_card import (
    CardError,
    CardInfo,
    Check,
    CostRow,
    render_card,
    validate_card,
)
from mobileclip_keras.converters.hub.terms import APPLES, NOTICE, OUR_OWN, Terms, bundle_terms
from mobileclip_keras.keras_models.registry import VARIANTS, Variant
from tests.hub.cards import card_problems
from tests.support import ROOT

CHECKS = (
    Check("train", "jax", 2.5e-14, 1.014, 1.1, True),
    Check("inference", "torch", 3e-13, 0.96, 1.25, False),
)


def info(variant: str | Variant = "mobileclip_s2", **changes: object) -> CardInfo:
    variant = VARIANTS[variant] if isinstance(variant, str) else variant
    told = {
        "source_file": f"{variant.name}.pt",
        "source_sha256": "ab" * 32,
        "forms": ("inference",),
    } | changes
    return CardInfo("user/mobileclip-keras", variant, **told)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_licence_is_apples_word_for_word() -> None:
    text = APPLES.text
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "30c59d255d2b4075ba11b81ce5aa0109c28d28138d66d52f7f5d8cbba814df8b"
    assert f"“{NOTICE}”" in " ".join(text.split())


APPLES_VARIANTS = {name: variant for name, variant in VARIANTS.items() if not variant.is_ours}


@pytest.mark.parametrize("variant", APPLES_VARIANTS.values(), ids=list(APPLES_VARIANTS))
def test_every_variant_has_a_card_that_can_be_published(variant: str) -> None:
    card = render_card(info(variant, forms=("train", "inference"), checks=CHECKS, images=16, texts=12))
    assert validate_card(card) == {
        "library_name": "keras",
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": variant.published.repo,
        "license": "apple-amlr",
        "license_link": "LICENSE",
        "tags": ["mobileclip", "clip", "keras", "zero-shot-image-classification", "image-feature-extraction"],
    }
    assert card_problems(card) == ([], [])
    assert card.count(f"# {variant.title} for Keras 3\n") == 1
    facts = section(card, "The model")
    assert f"`{variant.image_tower}`, {variant.image_parameters:.1f} million" in facts
    assert f"`{variant.text_tower}`, {variant.text_parameters:.1f} million" in facts
    adverb = {"bilinear": "bilinearly", "bicubic": "bicubically"}[variant.interpolation]
    assert f"{variant.image_size} × {variant.image_size} pixels, resized {adverb}," in facts
    assert all(f"{value:.8g}" in facts for value in (*variant.mean, *variant.std))
    assert f"{variant.imagenet_top1:.1f} %: Apple's published number for the original, not measured here" in facts


def test_weights_of_our_own_are_under_our_licence_and_nobody_calls_them_apples() -> None:
    card = render_card(info("mobileclip_shapes", forms=("train", "inference"), checks=CHECKS, images=16, texts=12))
    metadata = validate_card(card, OUR_OWN)
    assert metadata["license"] == "apache-2.0" and "base_model" not in metadata
    assert card_problems(card) == ([], [])
    text = " ".join(card.replace("\n> ", "\n").split())
    assert "**This model was not made by Apple**, and holds no weights of Apple's." in text
    assert text.count("Apple") == 2, "only in these words"
    assert "Model Derivative" not in card and "ImageNet" not in card and "$" not in card
    assert "never showed |" in section(card, "The model")
    assert OUR_OWN.text == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(("variant", "terms"), [("mobileclip_shapes", APPLES), ("mobileclip_s2", OUR_OWN)])
def test_a_card_on_the_terms_of_another_publisher_is_refused(variant: str, terms: Terms) -> None:
    with pytest.raises(CardError, match=r"license is '[a-z0-9.-]+' and should be"):
        validate_card(render_card(info(variant)), terms)


def test_a_bundle_names_the_terms_of_its_weights() -> None:
    apples, own = (bundle_terms(VARIANTS[f"mobileclip_{name}"]) for name in ("s0", "shapes"))
    assert apples.startswith(NOTICE) and "not for commercial use" in apples and "Apple endorses nothing" in apples
    assert own.startswith(OUR_OWN.notice) and "Apache 2.0" in own
    assert "commercial" not in own and "derivative" not in own and own.count("Apple") == 1


def test_what_the_licence_asks_for_is_said() -> None:
    card = render_card(info())
    lines = card.splitlines()
    assert lines.count(f"> {NOTICE}") == 2, "above, where everybody reads it, and under License"
    text = " ".join(card.replace("\n> ", "\n").split())
    assert "This is a Model Derivative** of an Apple Machine Learning Research Model" in text
    assert "Apple has neither made nor reviewed it and does not endorse it" in text
    assert "for non-commercial scientific research and academic development only" in text
    assert text.count("](LICENSE)") == 2


def test_the_changes_are_those_that_were_made() -> None:
    def changes(**told: object) -> str:
        return section(render_card(info(**told)), "What was changed")

    always = ("to Keras 3", "HDF5", "transposed", "tokenizer", "Nothing was retrained", "`mobileclip_s2.pt`")
    for forms in (("train",), ("inference",), ("train", "inference")):
        text = changes(forms=forms)
        assert all(words in text for words in always)
        assert ("folded" in text) == ("inference" in forms)
        assert ("In the train form" in text) == ("train" in forms)
        assert "converted from" not in text
    assert "Numbers converted from float32 to float16." in changes(dtype="float16")
    assert "Numbers converted from bfloat16 to float32." in changes(source_dtype="bfloat16")
    stored = section(render_card(info(forms=("train", "inference"), dtype="float16")), "The model")
    assert "| Stored as | train form and inference form, float16 |" in stored
    assert f"| Source | `mobileclip_s2.pt`, SHA-256 `{'ab' * 32}` |" in stored


def test_the_verification_is_shown_as_measured() -> None:
    reference = "open_clip 3.3.0 on PyTorch 2.6.0"
    told = render_card(
        info(checks=CHECKS, reference=reference, images=16, texts=12, device="NVIDIA H200", switches=("tf32 = False",))
    )
    text = section(told, "Verification")
    went = f"16 images and 12 texts went through these weights and through {reference}, in float64 and in float32."
    assert went in " ".join(text.split())
    assert "Keras ran on NVIDIA H200, in full float32. For that, `tf32 = False`." in text
    one_tower = section(render_card(info(checks=CHECKS, images=16, texts=0)), "Verification")
    assert "16 images went through" in one_tower and "texts" not in one_tower and "Keras ran on" not in one_tower
    assert "| train | jax | `encode` | 2.5e-14 | 1.01 × | 1.10 × | yes |" in text
    assert "| inference | torch | `encode` | 3.0e-13 | 0.96 × | 1.25 × | **no** |" in text
    assert "](verification.png)" in text and "not been verified" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(CHECKS) and len({row.count("|") for row in rows}) == 1


def test_what_lower_precision_costs_is_shown_and_not_called_equal() -> None:
    costs = (CostRow("bfloat16", 0.055, 0.16, 0.999769, 0), CostRow("float16", None, None, None, 3))
    text = section(render_card(info(checks=CHECKS, costs=costs, images=16, texts=12)), "Verification")
    assert "Lower precision is faster and not equal." in text
    assert "| bfloat16 | 5.5e-02 | 1.6e-01 | 0.999769 | 0 |" in text
    assert "| float16 | too large | too large | none | 3 |" in text


def test_an_unverified_card_says_so() -> None:
    text = section(render_card(info()), "Verification")
    assert text.strip() == "**These weights have not been verified** against PyTorch."


def test_the_usage_code_is_complete_python() -> None:
    card = render_card(info())
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")
        assert "import mobileclip_keras" in block
    assert blocks[0].count('.from_pretrained("user/mobileclip-keras")') == 3
    assert 'keras.saving.load_model("hf://user/mobileclip-keras")' in blocks[1]
    assert "$" not in card


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("library_name: keras\n", "", "library_name is None and should be 'keras'"),
        ("library_name: keras", "library_name: timm", "library_name is 'timm'"),
        ("zero-shot-image-classification\nbase", "x\nbase", "pipeline_tag is 'x'"),
        ("license: apple-amlr", "license: mit", "license is 'mit' and should be 'apple-amlr'"),
        ("base_model: apple/", "base_model: me/", "base_model does not name"),
        ("- mobileclip\n", "", "tags lack mobileclip"),
        (NOTICE, "Mine.", f"the text lacks {NOTICE!r}"),
        ("Model Derivative", "thing", "the text lacks 'Model Derivative'"),
        ("## What was changed", "## News", "the text lacks '## What was changed'"),
        ("](LICENSE)", "](elsewhere)", "the text lacks '](LICENSE)'"),
    ],
)
def test_a_card_that_lacks_something_is_refused(old: Any, new: Any, wrong: Any) -> None:
    card = render_card(info())
    assert old in card
    with pytest.raises(CardError) as error:
        validate_card(card.replace(old, new))
    assert wrong in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).count(";") == 0, "only what is wrong is named"


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(CardError) as error:
        validate_card("---\nlicense: mit\n---\n# Mine\n")
    assert str(error.value).count(";") == 8


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "does not start with metadata"),
        ("# A model\n", "does not start with metadata"),
        ("---\nlicense: mit\n", "does not start with metadata"),
        ("\n---\nlicense: mit\n---\n", "does not start with metadata"),
        ("---\nlicense: [mit\n---\n", "are not YAML: while parsing"),
        ("---\n- mit\n---\n", "are not a mapping"),
    ],
)
def test_metadata_that_cannot_be_read(text: str, wrong: Any) -> None:
    with pytest.raises(CardError, match=r"The m[a-z ]+README\.md") as error:
        validate_card(text)
    assert wrong in str(error.value) and "\n" not in str(error.value)


def test_a_card_wrapped_by_an_editor_is_still_right() -> None:
    card = render_card(info())
    wrapped = card.replace(f"> {NOTICE}", "> " + NOTICE.replace("Research Model ", "Research Model\n> ", 1))
    assert wrapped != card and validate_card(wrapped) == validate_card(card)
