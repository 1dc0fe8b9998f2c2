"""The errors that this package raises on purpose: each message tells a person what is wrong and what to do."""


class MobileClipError(Exception):
    """Base of every error raised on purpose; the command line prints its message and exits with status 1."""


class MissingPackageError(MobileClipError, ImportError):
    """A package that this task needs is not installed; the message says which, and how to install it."""
