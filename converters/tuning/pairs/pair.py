"""One image with its captions, of which nothing but the words is in memory."""

from dataclasses import dataclass
from pathlib import Path

from ....keras_models.inputs.image_reading import ImageError, is_url
from ....keras_models.shown import shown_name
from ....keras_models.store.foreign.foreign_files import ForeignFileError, check_regular, read_limited
from ....verify.evaluation.data.dataset import LARGEST_FILE


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where the bytes of an image file lie: in a file of their own, or within a shard."""

    path: Path
    offset: int = 0
    size: int | None = None
    """None for the whole file."""

    def read(self) -> bytes:
        """The image file.

        Raises:
            ImageError: where it is missing or cannot be read.
        """
        name = shown_name(self.path)
        if is_url(str(self.path)):
            raise ImageError(f"{name} is a URL, and URLs are not fetched")
        try:
            if self.size is None:
                return read_limited(self.path, LARGEST_FILE)
            check_regular(self.path)
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist") from error
        except ForeignFileError as error:
            raise ImageError(str(error).rstrip(".")) from error
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
            raise ImageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its captions, or what is wrong with the place where they should be.

    Attributes:
        where: it stands, for messages: "pairs.csv, row 3".
        image: where its bytes lie; None where there is a problem.
        texts: its captions. One of them is taken in each epoch.
        label: the number of its class; None where there are no classes.
        problem: what is wrong with it; "" as far as that is known.
    """

    where: str
    image: ImagePlace | None = None
    texts: tuple[str, ...] = ()
    label: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class PairSet:
    """A data set of pairs, in the order of its rows.

    Attributes:
        name: as the user gave it.
        pairs: all, also those with problems.
        classes: the captions of each class; empty where pairs have captions of their own.
    """

    name: str
    pairs: tuple[Pair, ...]
    classes: tuple[tuple[str, ...], ...] = ()
