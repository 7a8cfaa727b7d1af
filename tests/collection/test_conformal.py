"""Conformal p-values: their definition, and false alarms in finite samples."""

import numpy as np
import pytest

from evae.collection.conformal import p_values


def test_ranks_by_hand():
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    found = p_values(np.array([0.0, 2.0, 2.5, 4.0]), calibration)
    assert found.tolist() == [1.0, 4 / 5, 2 / 5, 1 / 5]
    own = np.ones(4, bool)
    assert p_values(calibration, calibration, own).tolist() == [1.0, 3 / 4, 3 / 4, 1 / 4]


@pytest.mark.parametrize("count", [9, 10, 57])
def test_false_alarms_hold_for_any_number_of_images(count):
    """The nominal level bounds the expected fraction; where it is a rank, they are equal."""
    rng = np.random.default_rng(0)
    scores = rng.standard_cauchy((4_000, count + 1))
    p = np.array([p_values(row[:1], row[1:])[0] for row in scores])
    for alpha in (0.1, 0.3):
        level = np.floor(alpha * (count + 1)) / (count + 1)
        error = 4 * np.sqrt(level * (1 - level) / len(p))
        assert abs((p <= alpha).mean() - level) <= error
        assert level <= alpha


def test_of_a_collection_at_most_the_level_is_called_unusual():
    scores = np.random.default_rng(0).normal(size=250)
    found = p_values(scores, scores, np.ones(250, bool))
    assert (found <= 0.01).sum() == 2
    assert sorted(found) == [k / 250 for k in range(1, 251)]
