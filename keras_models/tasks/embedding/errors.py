"""What can be wrong with a store and with what goes into it."""

from ...errors import MobileClipError


class StoreError(MobileClipError):
    """A store is missing, damaged, in use, or does not fit what is asked of it; the message says which."""


class FingerprintError(StoreError):
    """Vectors were made by something else than what is to be compared with them; the message says what differs."""


class DataError(MobileClipError):
    """What is to be embedded leads to nothing, or is of a kind that cannot be read."""
