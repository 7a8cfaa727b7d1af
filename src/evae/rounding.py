"""Numbers as people read them: no more digits than are known, a value and its error to the same place."""

import math

_SMALLEST = 1e-7  # below it, and from _LARGEST on, numbers have an exponent
_LARGEST = 1e9


def rounded(value: float, digits: int = 4) -> str:
    """To ``digits`` significant digits, whole numbers in full.

    >>> rounded(0.0123456), rounded(12345.6), rounded(0.5)
    ('0.01235', '12346', '0.5')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value + 0.0:g}"  # not -0
    if not _SMALLEST <= abs(value) < _LARGEST:
        return f"{value:.{digits}g}"
    places = digits - 1 - _exponent(value, digits)
    return f"{value:.{places}f}".rstrip("0").rstrip(".") if places > 0 else f"{value:.0f}"


def with_error(value: float, error: float, digits: int = 1) -> str:
    """A value to the place of the last digit of its error, which has ``digits`` significant ones.

    >>> with_error(573.6, 21.0), with_error(240.18, 0.93), with_error(2.05, 0.0707, 2)
    ('574 ± 20', '240.2 ± 0.9', '2.050 ± 0.071')
    """
    if not (error and math.isfinite(value) and math.isfinite(error)):
        return f"{rounded(value)} ± {rounded(error)}"
    place = digits - 1 - _exponent(error, digits)
    shown = float(f"{error:.{digits - 1}e}")
    if error < _SMALLEST or max(abs(value), error) >= _LARGEST:
        kept = max(0, place + (_exponent(value, digits) if value else 0))
        return f"{value:.{kept}e} ± {shown:.{digits - 1}e}"
    return f"{value:z.{max(0, place)}f} ± {shown:.{max(0, place)}f}"


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "image"), counted(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _exponent(value: float, digits: int) -> int:
    """Of ten, once the value is rounded to ``digits`` significant digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])
