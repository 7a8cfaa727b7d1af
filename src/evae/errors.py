"""What can go wrong through no fault of the code; the command line reports these in one sentence."""


class EvaeError(Exception):
    """Base of every error that evae raises on purpose."""


class ConfigError(EvaeError, ValueError):
    """A setting that cannot work: unknown name, non-positive length, shapes that do not fit."""


class DataError(EvaeError):
    """Images that cannot be found, read or used."""


class RunError(EvaeError):
    """A run folder that cannot be created, read, written or resumed."""


def first_line(error: Exception) -> str:
    """An error's message, or its type, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
