"""Standard streams of a command's process: closed, full, without a reader, or of an encoding that lacks characters."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PLAIN = {"±": "+-", "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "μ": "mu", "σ": "sigma"}
_PLAIN |= {
    "κ": "kappa",
    "β": "beta",
    "λ": "lambda",
    "χ": "chi",
    "²": "^2",
    "³": "^3",
    "∫": "int ",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "↓": "v",
    "↑": "^",
}
_ERRORS = "evae-plain"


@contextmanager
def usable_streams() -> Iterator[None]:
    """Standard streams that can be written for as long as the process lives.

    Closed ones lead nowhere, characters that their encoding does not have are written in ASCII, and what cannot be
    written at the end is lost.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file to be opened becomes the standard stream
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if not stream.encoding.lower().replace("-", "").startswith("utf"):
            stream.reconfigure(errors=_ERRORS)  # type: ignore[union-attr]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                _discard(stream.fileno())


def _discard(descriptor: int) -> None:
    """Let a stream lead nowhere, so that Python's last attempt to write what is left does not fail."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end
