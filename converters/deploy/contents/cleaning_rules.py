"""What is done to a text before it is cut into words, as rules of the library `tokenizers`: "replace this by that".

A rule knows no arithmetic and no judgement. So the numbers of characters are listed, and mojibake is mended where
one letter was spoilt in the usual way. The tables are those of the installed `ftfy` and `html`, which `Tokenizer` uses.
"""

import html
import unicodedata
from html.entities import html5
from typing import Any

NOT_SAID = (
    "mojibake other than single letters and punctuation read as Windows-1252",
    "numbers (&#...;) of characters that have no name in HTML, but for ASCII, Latin-1 and emoji of U+1F300 to U+1F64F",
    "capitals and curly quotes written as references in texts that hold a <",
    "a special token written out straight behind a symbol or an emoji",
)
"""What rules cannot say, in words."""

_NUMBERED = (*range(0x20, 0x7F), *range(0xA0, 0x100), *range(0x1F300, 0x1F650))
"""Characters without a name in HTML whose numbers are resolved too."""
_SPOILT = (*range(0xA0, 0x100), *range(0x2013, 0x2023), 0x2026, 0x2039, 0x203A, 0x20AC, 0x2122)
"""Characters whose mojibake is looked at."""
_TERMINAL = "\\x1b\\[[0-9;]*[a-zA-Z]"
_CONTROLS = "[\\x00-\\x08\\x0B\\x0E-\\x1F\\x7F\u206a-\u206f\ufeff\ufff9-\ufffc]"
_SINGLE, _DOUBLE = "[\u02bc\u2018-\u201b]", "[\u201c-\u201f]"
_LAST_SIGMA = "(?<=\\p{L}|\\p{L}\\p{M})\u03a3(?![\\p{M}'.:\u00b7]*\\p{L})"
"""In a word's last place, it has another small letter."""

Rule = tuple[str, str, bool]
"""What is replaced, by what, and whether the first is a regular expression."""


def cleaning_rules() -> Any:
    """The normaliser: references, mojibake, ligatures, widths, quotes, controls, white space, lower case."""
    from tokenizers import Regex, normalizers

    rules = [*_references(), *_mojibake(), *_characters()]
    rules += [(_SINGLE, "'", True), (_DOUBLE, '"', True), (_TERMINAL, "", True), (_CONTROLS, "", True)]
    replaced = [normalizers.Replace(Regex(old) if pattern else old, new) for old, new, pattern in rules]
    spaces, sigma = normalizers.Replace(Regex("\\s+"), " "), normalizers.Replace(Regex(_LAST_SIGMA), "\u03c2")
    usual = [normalizers.NFC(), spaces, normalizers.Strip(), sigma, normalizers.Lowercase()]
    return normalizers.Sequence([*replaced, *usual])


def _references() -> list[Rule]:
    """A rule for each character, by all its names and its number, and for the old names that need no semicolon."""
    from ftfy.chardata import HTML_ENTITIES

    names: dict[str, list[str]] = {chr(code): [] for code in _NUMBERED}
    for name, text in {**html5, **{name[1:]: text for name, text in HTML_ENTITIES.items()}}.items():
        if name.endswith(";"):
            names.setdefault(text, []).append(name[:-1])
    ampersand = "&(?:%s);|&amp" % "|".join((*sorted(names.pop("&")), "#0*38", "#[xX]0*26"))  # noqa: UP031 - braces
    rules: list[Rule] = [(ampersand, "&", True)] * 2
    for text, own in names.items():
        ways = [f"&(?:{'|'.join(sorted(own))});"] if own else []
        rules.append(("|".join([*ways, *_numbers(text)]), text, True))
    old = [name for name in html5 if not name.endswith(";")]
    return rules + [(f"&{name}", html5[name], False) for name in sorted(old, key=len, reverse=True)]


def _numbers(text: str) -> list[str]:
    """Patterns of a character's numbers, decimal and hexadecimal. HTML means Windows-1252 by those from 128 to 159."""
    if len(text) > 1:
        return []
    codes = [ord(text), *(code for code in range(0x80, 0xA0) if html.unescape(f"&#{code};") == text)]
    return [f"&#(?:0*{code}(?![0-9])|[xX]0*{_any_case(code)}(?![0-9a-fA-F]));?" for code in codes]


def _any_case(code: int) -> str:
    return "".join(digit if digit.isdigit() else f"[{digit}{digit.upper()}]" for digit in f"{code:x}")


def _mojibake() -> list[Rule]:
    """UTF-8 that was read as Windows-1252, one character at a time, where ftfy mends it in a word and alone."""
    import ftfy

    found: list[Rule] = []
    for code in _SPOILT:
        letter, spoilt = chr(code), chr(code).encode().decode("sloppy-windows-1252")
        places = (("", ""), ("caf", "t"), (" ", " "))
        if all(ftfy.fix_encoding(f"{a}{spoilt}{b}") == f"{a}{letter}{b}" for a, b in places):
            found.append((spoilt, letter, False))
    return sorted(found, key=lambda rule: -len(rule[0]))


def _characters() -> list[Rule]:
    """Single characters: controls that Windows-1252 has letters for, ligatures, full and half width."""
    from ftfy.chardata import LIGATURES, WIDTH_MAP

    controls = {chr(code): bytes([code]).decode("sloppy-windows-1252") for code in range(0x80, 0xA0)}
    tables = {chr(code): text for table in (LIGATURES, WIDTH_MAP) for code, text in table.items()}
    rules = {**controls, **tables}
    return [(one, other, False) for one, other in rules.items() if one != other and unicodedata.category(one) != "Cs"]
