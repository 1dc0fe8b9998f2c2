"""Sentences around labels: the prompt templates of CLIP's zero-shot evaluation (arXiv 2103.00020, 3.1.4)."""

import re
from collections.abc import Iterable, Sequence

from ..errors import MobileClipError

SLOT = "{}"

SINGLE = ("a photo of a {}.",)

# The seven that CLIP's authors picked from the eighty.
SHORT = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# The eighty that CLIP's authors publish for ImageNet, in their order.
OPENAI = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES = {"single": SINGLE, "short": SHORT, "openai": OPENAI}
"""The named sets, the smallest first."""

_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_ENDS_IN_ARTICLE = re.compile(r"(?:^|\s)(?:an?|the)\s+$", re.IGNORECASE)


class PromptError(MobileClipError, ValueError):
    """No prompts can be made from these labels or templates."""


def get_templates(templates: str | Iterable[str]) -> tuple[str, ...]:
    """The templates that an argument names or holds.

    Args:
        templates: "single", "short" or "openai"; one template; or several. A template holds {} where the
            label goes, once or more; "{}" alone is the label itself.

    Raises:
        PromptError: where a template lacks {}, or there is none.
    """
    if isinstance(templates, str):
        templates = TEMPLATES.get(templates, (templates,))
    found = tuple(templates)
    if not found:
        raise PromptError("There are no templates.")
    for template in found:
        if not isinstance(template, str) or SLOT not in template:
            raise PromptError(
                f"{template!r} is no template: it lacks {SLOT}, where the label goes. "
                f"The sets with names are {', '.join(TEMPLATES)}."
            )
    return found


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels without the spaces around them.

    Raises:
        PromptError: where there is none, one is empty or not a string, or two are the same.
    """
    if isinstance(labels, str):
        raise PromptError("Labels are a list of strings, not one string.")
    found: dict[str, None] = {}
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise PromptError(f"Labels must be strings with something in them, not {label!r}.")
        if label.strip() in found:
            raise PromptError(f"The label {label.strip()!r} is there twice.")
        found[label.strip()] = None
    if not found:
        raise PromptError("There are no labels.")
    return tuple(found)


def check_background(background: Iterable[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Background labels without the spaces around them.

    Raises:
        PromptError: where one is empty, there twice, or among the labels.
    """
    given = background if isinstance(background, str) else list(background)
    if not given:
        return ()
    found = check_labels(given)
    check_labels([*labels, *found])
    return found


def fill(template: str, label: str) -> str:
    """The prompt for a label. If template and label both have an article, the label's is dropped: "a photo of a {}."
    and "a dog" make "a photo of a dog."."""
    before = template.partition(SLOT)[0]
    article = _ARTICLE.match(label)
    if article and _ENDS_IN_ARTICLE.search(before):
        label = label[article.end() :]
    return template.replace(SLOT, label)
