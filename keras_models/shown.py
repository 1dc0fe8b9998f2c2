"""Text from strangers as it is shown: nothing in it moves the cursor, hides, or turns other text around."""

import re
import unicodedata

LONGEST = 200
"""Characters of a name that are shown."""

# Control characters, what marks directions or takes no room, surrogates, line and paragraph separators, and letters
# that are blank. Unassigned and private characters are boxes, and stay.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"
_PLAIN = re.compile(r"[\x20-\x7e\n]*")
_JOINERS = "\u200c\u200d"
"""Between two letters of Persian or Hindi, and inside emoji, they are part of the spelling."""
_FIRST_JOINED = 0x0590
"""Latin, Greek, Cyrillic and Armenian join nothing."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: object, keep: str = "") -> str:
    """A text in which every character can be seen: the others are written as in Python, "\\x1b" and "\\u202e".

    Args:
        text: of anybody.
        keep: characters that stay as they are: "\\n" for a text of several lines.
    """
    text = str(text)
    if _PLAIN.fullmatch(text) and (keep or "\n" not in text):
        return text
    return "".join(
        character if character in keep or not _is_hidden(text, index) else _escaped(character)
        for index, character in enumerate(text)
    )


def shown_name(text: object) -> str:
    """A name on one line, shortened in the middle where it is long."""
    name = shown(text)
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def _is_hidden(text: str, index: int) -> bool:
    character = text[index]
    if character in _JOINERS:
        return not (0 < index < len(text) - 1 and _joins(text[index - 1]) and _joins(text[index + 1]))
    return unicodedata.category(character) in _HIDDEN or character in _BLANK_LETTERS


def _joins(character: str) -> bool:
    return ord(character) >= _FIRST_JOINED and unicodedata.category(character)[0] in "LMS"


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
