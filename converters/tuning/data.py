"""What to train and validate with, as a user names it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Data:
    """What to train and validate with, as the user named it.

    Attributes:
        pairs: as `open_pairs` takes it.
        validation: the same; None to hold some pairs back.
        templates, image_column, text_column: as `open_pairs` takes them.
        skip_broken: whether broken pairs are left out.
    """

    pairs: str
    validation: str | None = None
    templates: tuple[str, ...] | None = None
    image_column: str | None = None
    text_column: str | None = None
    skip_broken: bool = False

    def asked(self) -> dict[str, Any]:
        """What a run is told by."""
        templates = None if self.templates is None else list(self.templates)
        columns = {"image_column": self.image_column, "text_column": self.text_column}
        return {"data": self.pairs, "validation": self.validation, "templates": templates, **columns}
