"""Labels of any type become classes."""

import numpy as np
import pytest

from evae.data import labels
from evae.data.labels import as_label, classes_of, encode


@pytest.mark.parametrize(
    ("found", "codes", "names"),
    [
        ([0, 3, 1], [0, 3, 1], ()),
        ([0, -1, None], [0, -1, -1], ()),
        ([1.0, 0.0, float("nan")], [1, 0, -1], ()),
        (["dog", "cat", "dog", " "], [1, 0, 1, -1], ("cat", "dog")),
        ([b"dog", np.str_("cat")], [1, 0], ("cat", "dog")),
        ([True, False, None], [1, 0, -1], ("False", "True")),
        ([0.5, 0.25, 1.0], [1, 0, 2], ("0.25", "0.5", "1.0")),
        ([2**64, 2], [-1, 2], ()),
        ([[1], {}], [-1, -1], ()),
    ],
)
def test_encode(found, codes, names):
    own = [as_label(value) for value in found]
    got = encode(own, ())
    assert (got[0].tolist(), got[1]) == (codes, names)
    assert classes_of(own, names).tolist() == codes


def test_names_of_whole_numbers_stay():
    assert encode([1, 0], ("a", "b"))[1] == ("a", "b")


def test_too_many_values_are_no_classes(monkeypatch):
    monkeypatch.setattr(labels, "MAX_CLASSES", 3)
    codes, names = encode(["a", "b", "c", "d"], ())
    assert (codes.tolist(), names) == ([-1] * 4, ())
