"""Numbers for people: a value and its error end at the same place, whatever their sizes."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evae.rounding import rounded, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (9.99, 0.096, "10.0 ± 0.1"),
        (4463.2, 57.0, "4463 ± 60"),
        (-0.002, 0.02, "0.00 ± 0.02"),
        (3e-9, 2e-10, "3.0e-09 ± 2e-10"),
        (1.2345e10, 3e8, "1.23e+10 ± 3e+08"),
        (0.5, 0.0, "0.5 ± 0"),
        (math.nan, 1.0, "nan ± 1"),
        (2.0, math.inf, "2 ± inf"),
    ],
)
def test_examples(value, error, text):
    assert with_error(value, error) == text


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 2))
def test_the_same_place(value, error, digits):
    shown, spread = with_error(value, error, digits).split(" ± ")
    assert len(shown.partition(".")[2]) == len(spread.partition(".")[2])
    assert abs(float(shown) - value) <= max(0.5, 0.51 * 10.0 ** -len(shown.partition(".")[2]))
    assert abs(float(spread) - error) <= max(0.51, error * 10.0 ** (1 - digits) / 2 * 1.01)


@pytest.mark.parametrize(("value", "text"), [(-0.0, "0"), (99999.5, "100000"), (1e12, "1e+12"), (0.00099996, "0.001")])
def test_without_error(value, text):
    assert rounded(value) == text
