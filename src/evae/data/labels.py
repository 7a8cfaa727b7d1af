"""Labels of any type as classes 0, 1, ...: whole numbers stay as they are, all others are numbered in their order."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1
_MAX_TEXT = 1000  # characters of a label; longer texts are none
MAX_CLASSES = 2**16  # of labels that are no whole numbers; with more they are no classes

Label = int | float | str | bool | None  # of an image as it was found; None where it has none


def as_label(value: object) -> Label:
    """A cell of a table or an array as a label: numbers, texts of up to 1,000 characters, truth values; else None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.strip() and len(value) <= _MAX_TEXT else None
    return value if isinstance(value, int) else None


def encode(labels: Sequence[Label], names: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes (N,), ``NO_LABEL`` for images without one, and their names.

    Whole numbers, also those kept as floating-point numbers, are classes as they are, with ``names``; negative ones
    are no label. Texts, truth values and other numbers are numbered in sorted order, and name the classes.
    """
    present = set(labels) - {None}
    codes = {value: _whole(value) for value in present}
    if all(code is not None for code in codes.values()):
        return np.array([NO_LABEL if value is None else codes[value] for value in labels], np.int64), names
    if len(present) > MAX_CLASSES:
        return np.full(len(labels), NO_LABEL), ()
    order = sorted(present, key=lambda value: (isinstance(value, str), value))
    index: dict[Any, int] = {value: number for number, value in enumerate(order)} | {None: NO_LABEL}
    return np.array([index[value] for value in labels], np.int64), tuple(map(str, order))


def _whole(value: Any) -> int | None:
    """The class that a number stands for; None where it is no whole number."""
    if isinstance(value, bool | str) or value != int(value):
        return None
    return int(value) if 0 <= value < 2**63 else NO_LABEL


def classes_of(labels: Sequence[Label], names: tuple[str, ...]) -> NDArray[np.int64]:
    """The classes (N,) of further images of a data set whose classes ``encode`` has named."""
    index = {name: number for number, name in enumerate(names)}
    codes: dict[Label, int] = {}
    for value in set(labels):
        named = None if type(value) is int or value is None else index.get(str(value))
        whole = _whole(value) if named is None and value is not None else named
        codes[value] = NO_LABEL if whole is None else whole
    return np.array([codes[value] for value in labels], np.int64)
