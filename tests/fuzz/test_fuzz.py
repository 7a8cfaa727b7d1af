"""Readers on damaged files: each gives a result or an error of evae's own, soon and with little memory."""

import os
from functools import cache

import pytest

from tests.fuzz.harness import fuzz, made
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))  # for each target

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Makes the valid input of a target, once for all targets that share it."""
    return cache(lambda make: made(make, tmp_path_factory.mktemp("made")))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.quick])
def test_some_damage(name, whole, tmp_path):
    assert fuzz(TARGETS[name], whole(TARGETS[name].make), tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_much_damage(name, whole, tmp_path):
    assert fuzz(TARGETS[name], whole(TARGETS[name].make), tmp_path, SECONDS) == {}
