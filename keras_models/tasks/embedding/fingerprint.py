"""What made a vector: everything that would make another one of the same picture or text."""

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from ...store.foreign.json_fields import Check, fields, problems, text
from .errors import FingerprintError

_WORDS = {
    "image_weights": "the weights of the image tower",
    "text_weights": "the weights of the text tower",
    "preprocessing": "the preprocessing of images",
    "tokenizer": "the tokenizer",
    "dtype": "the dtype of the computation",
    "precision": "the precision of the device",
    "version": "the version of mobileclip-keras",
}
_DIGITS = 12
"""Of a hash that are shown."""


@dataclass(frozen=True)
class Fingerprint:
    """What made a vector, each part as a text. An empty text stands for what is not there, such as a tower."""

    image_weights: str
    """SHA-256 of the image tower's variables, with their names and shapes."""
    text_weights: str
    preprocessing: str
    tokenizer: str
    dtype: str
    """The dtype policy: "float32", "mixed_float16", ..."""
    precision: str
    """How many bits of float32 products the device keeps: 23 in full float32, 10 in TF32."""
    version: str
    """Of this package."""

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """From what `as_record` gave.

        Raises:
            FingerprintError: where it holds anything else.
        """
        checks: dict[str, Check] = dict.fromkeys(_WORDS, text(1000))
        wrong = problems(record, fields(checks))
        if wrong:
            raise FingerprintError(f"The fingerprint cannot be understood: {'; '.join(wrong)}.")
        return cls(**{name: record[name] for name in _WORDS})

    @classmethod
    def of_version(cls) -> Self:
        """What is known before a model is loaded: the version of this package, and nothing else."""
        return cls(**{**dict.fromkeys(_WORDS, ""), "version": package_version()})

    def as_record(self) -> dict[str, str]:
        """As a dict of texts, for JSON."""
        return asdict(self)

    def differences(self, other: Self) -> list[str]:
        """What differs, in words: "the dtype of the computation (float32 there, bfloat16 here)".

        Args:
            other: the fingerprint of what is used here. What either of the two lacks, such as a tower that was not
                loaded, is not compared.
        """
        there, here = self.as_record(), other.as_record()
        return [
            f"{words} ({_short(there[name])} there, {_short(here[name])} here)"
            for name, words in _WORDS.items()
            if there[name] and here[name] and there[name] != here[name]
        ]

    def check(self, other: Self, where: str) -> None:
        """Refuses what would give other vectors.

        Args:
            other: the fingerprint of what is used here.
            where: the vectors are kept, for the message.

        Raises:
            FingerprintError: naming everything that differs.
        """
        found = self.differences(other)
        if found:
            raise FingerprintError(
                f"The vectors in {where} were made by something else: {'; '.join(found)}. Their scores would mean "
                "nothing. Use what made them, or embed the collection again into a new store."
            )


def _short(value: str) -> str:
    is_hash = len(value) == 64 and all(digit in "0123456789abcdef" for digit in value)
    return f"{value[:_DIGITS]}…" if is_hash else value


def package_version() -> str:
    """The version of this package that is installed."""
    try:
        return version("mobileclip-keras")
    except PackageNotFoundError:  # a checkout that has not been installed
        return "0+unknown"
