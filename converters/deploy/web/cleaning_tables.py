"""What the page's tokenizer has to know of ftfy and of HTML, taken from the installed packages.

Its JavaScript holds the order of the steps; the tables and patterns that it goes by are those of the Python packages
that `Tokenizer` uses, in the edition that is installed. So neither is a copy that could fall behind.
"""

import html.entities
import re
from typing import Any

# What Python's `\s`, `\w` and `.` mean, in JavaScript's words.
_CLASSES = {r"\s": r"[\s\x1c-\x1f\x85]", r"\w": r"[\p{L}\p{N}_]", ".": r"[^\n]"}
_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|#[^\n]*|\s|.", re.DOTALL)


def cleaning_tables() -> dict[str, Any]:
    """The tables of ftfy and of HTML, as JSON can hold them. Bytes stand as the characters of Latin-1."""
    from ftfy import badness, chardata

    html5 = html.entities.html5
    return {
        "encodings": [[name, bytes(range(256)).decode(name)] for name in chardata.CHARMAP_ENCODINGS],
        "badness": javascript_pattern(badness.BADNESS_RE.pattern),
        "detector": javascript_pattern(chardata.UTF8_DETECTOR_RE.pattern),
        "altered": chardata.ALTERED_UTF8_RE.pattern.decode("latin-1"),
        "lossy": chardata.LOSSY_UTF8_RE.pattern.decode("latin-1"),
        "ligatures": {chr(letter): text for letter, text in chardata.LIGATURES.items()},
        "widths": {chr(letter): text for letter, text in chardata.WIDTH_MAP.items()},
        "names": html5,
        "shouted": {name[1:]: text for name, text in chardata.HTML_ENTITIES.items() if name[1:] not in html5},
    }


def javascript_pattern(pattern: str) -> str:
    """A verbose regular expression of Python's in JavaScript's words, for the flag `u`.

    Outside of classes, white space and comments are left out.
    """
    kept = []
    for token in _TOKEN.findall(pattern):
        if token.isspace() or token.startswith("#"):
            continue
        kept.append(_CLASSES.get(token, token))
    return "".join(kept)
