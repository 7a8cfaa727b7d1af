"""Means of an epoch: the same however rarely they are read."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evae.runs import Progress
from evae.training.meter import DivergedError, EpochMeter, NonfiniteStepError
from evae.training.settings import Recipe

NAMES = ("loss", "kl")


def meter(**recipe):
    return EpochMeter(NAMES, Progress("images"), Recipe(batch_size=8, **recipe), steps_per_epoch=4)


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_means_do_not_depend_on_when_they_are_read(reads):
    terms = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 3.0], [3.0, 4.0]], dtype=torch.float64)
    often = meter()
    for row, read in zip(terms, reads, strict=True):
        often.add(row)
        if read:
            often.read()
    line = often.read()
    assert (line["loss"], line["kl"]) == (1.0, 2.5)
    assert often.progress.step == 4


def test_a_resumed_epoch_continues_its_sums():
    first = meter()
    first.add(torch.tensor([2.0, 4.0]))
    first.read()
    second = EpochMeter(NAMES, first.progress, first.recipe, 4)
    for _ in range(3):
        second.add(torch.tensor([4.0, 8.0]))
    assert second.read()["kl"] == 7.0
    second.start_epoch()
    second.add(torch.tensor([1.0, 1.0]))
    assert second.read()["kl"] == 1.0


def test_a_step_that_is_not_finite():
    stops = meter()
    stops.add(torch.tensor([1.0, 1.0]))
    stops.add(torch.tensor([1.0, math.inf]))
    with pytest.raises(NonfiniteStepError) as bad:
        stops.read()
    assert (bad.value.number, bad.value.terms) == (1, [1.0, math.inf])


def test_steps_that_are_skipped_do_not_count():
    skips = meter(on_nonfinite="skip")
    skips.add(torch.tensor([math.nan, 1.0]))
    assert skips.read() == {}
    skips.add(torch.tensor([3.0, 1.0]))
    line = skips.read()
    assert (line["loss"], line["skipped_steps"]) == (3.0, 1)


def test_an_epoch_without_a_finite_step():
    skips = meter(on_nonfinite="skip")
    for _ in range(4):
        skips.add(torch.tensor([math.nan, 1.0]))
    with pytest.raises(DivergedError, match="no loss of epoch 1 is finite"):
        skips.read()


def test_several_ranks_read_at_the_same_steps():
    two = EpochMeter(NAMES, Progress("images"), Recipe(), 100, world_size=2, reduce=lambda terms: terms / 2)
    due = []
    for _ in range(60):
        two.add(torch.ones(2))
        due.append(two.is_due())
    assert [step for step, is_due in enumerate(due, 1) if is_due] == [20, 40, 60]
    assert two.read()["loss"] == 0.5


def test_a_clock_that_stands_still(monkeypatch):
    """No time has passed between two readings: there is no speed, and no crash."""
    monkeypatch.setattr(time, "monotonic", lambda: 17.0)
    still = meter()
    still.add(torch.tensor([1.0, 1.0]))
    line = still.read()
    assert line["seconds"] == 0
    assert "images_per_second" not in line
