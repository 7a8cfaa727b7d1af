"""A served hub that huggingface_hub asks, and a run on private files."""

from functools import partial

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from evae import GaussianVAE, evaluate, fit_prior
from tests.hub.server import TOKEN, serving
from tests.small import trained


@pytest.fixture(scope="package")
def served():
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(served, tmp_path, monkeypatch):
    """An empty hub, and a token for it."""
    served.repositories.clear()
    served.received.clear()
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return served


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """Trained on a folder of files whose names and classes nobody may know, evaluated, with a prior."""
    folder = tmp_path_factory.mktemp("secret-data")
    rng = np.random.default_rng(0)
    for i in range(40):
        path = folder / ("test" if i < 10 else "train") / f"diagnosis-{i % 2}" / f"patient-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(folder.parent / "cache"))
        family = partial(GaussianVAE, networks="mlp", widths=(8,))
        run = trained(family, folder, tmp_path_factory.mktemp("runs") / "own")
        evaluate(run, show=False, probes=True, device="cpu")
        fit_prior(run, kind="gaussian", device="cpu")
    return run
