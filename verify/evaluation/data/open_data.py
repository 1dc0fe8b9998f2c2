"""Opening a data set by its name, whatever its layout."""

from .class_folders import open_class_folders
from .dataset import DataError, Dataset
from .places import Folder, find_place
from .webdataset import COUNT, open_webdataset


def open_dataset(data: str, split: str = "test") -> Dataset:
    """A data set, ready to be read.

    Args:
        data: as for `places.find_place`.
        split: a folder in it.

    Raises:
        DataError: where there is no data set, or it is damaged.
        HubError: where the Hub or the way to it fails.
    """
    if not split or split.startswith((".", "/")) or ".." in split.split("/"):
        raise DataError(f"{split!r} is no name of a split.")
    place = find_place(data)
    found = open_webdataset(place, split)
    if found is None and isinstance(place, Folder):
        found = _class_folders(place, split)
    if found is None:
        raise DataError(
            f"{place.name} holds no data set with the split {split!r}: neither {split}/{COUNT} of CLIP_benchmark's "
            "layout nor folders of images, one for each class."
        )
    return found


def _class_folders(place: Folder, split: str) -> Dataset | None:
    """Class folders, unless the folder has other splits."""
    others = sorted(path.parent.name for path in place.folder.glob(f"*/{COUNT}"))
    if others:
        raise DataError(f"{place.name} has no split {split!r}. It has: {', '.join(others)}.")
    return open_class_folders(place, split)
