"""What can go wrong through no fault of the code; the command line reports these in one sentence."""

import re

# Control characters, those that reverse the direction of text, line separators, and bytes that are no UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class EvaeError(Exception):
    """Base of every error that evae raises on purpose."""


class ConfigError(EvaeError, ValueError):
    """A setting that cannot work: unknown name, non-positive length, shapes that do not fit."""


class DataError(EvaeError):
    """Images that cannot be found, read or used."""


class RunError(EvaeError):
    """A run folder that cannot be created, read, written or resumed."""


def first_line(error: BaseException) -> str:
    """An error's message, or its type, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def printable(text: str, kept: str = "") -> str:
    """A text with the characters that act on a terminal shown escaped, ESC as ``\\x1b``, but for those ``kept``."""
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] in kept else m[0].encode("unicode_escape").decode(), text)
