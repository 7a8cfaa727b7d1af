"""Seeds, the cache folder, small images and oracles shared by the tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.distributions import Distribution

from evae.reporting import training_figures

settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("quick")

ORACLES = Path(__file__).parent / "oracles"


def oracle(name: str):
    """Reference values computed independently, to 12-17 digits."""
    return json.loads((ORACLES / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _validation():
    """torch.compile turns the validation of distributions off, for good."""
    yield
    Distribution.set_default_validate_args(True)


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)  # the networks are small


@pytest.fixture(scope="session", autouse=True)
def _undrawn():
    """Runs have no figures of their training, whose drawing takes three quarters of a small run's time."""
    drawn = training_figures.draw_training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_figures, "draw_training", lambda *_: None)
        yield drawn


@pytest.fixture
def drawn(_undrawn, monkeypatch):
    """Runs have their figures, for tests that look at them."""
    monkeypatch.setattr(training_figures, "draw_training", _undrawn)


@pytest.fixture(scope="session")
def _shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(_shared_cache, monkeypatch):
    """Decoded images stay out of the user's cache."""
    monkeypatch.setenv("EVAE_CACHE", str(_shared_cache))
    return _shared_cache


@pytest.fixture(scope="session")
def blobs(tmp_path_factory) -> str:
    """An .npz of 16x16 grey images of a bright blob somewhere: 48 to train on, 16 held out, two classes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    centres = rng.uniform(4, 12, (64, 2))
    distance = (y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2
    images = (255 * np.exp(-distance / 8)).astype(np.uint8)
    labels = (centres[:, 0] > 8).astype(int)
    path = tmp_path_factory.mktemp("blobs") / "blobs.npz"
    np.savez(path, x_train=images[:48], y_train=labels[:48], x_test=images[48:], y_test=labels[48:])
    return str(path)
