"""Distances of a run's reconstructions and samples: pairs, cached features and their last use, very few images."""

import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from evae import GaussianVAE, open_store
from evae.data.cache import cache_folder
from evae.metrics import distances
from evae.metrics.features import Extractor
from evae.metrics.fid import DISTANCES
from evae.metrics.sections import Context, Options

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def store(folder):
    return stored(folder, 40)


def stored(folder, holdout):
    images = np.random.default_rng(0).integers(0, 256, (60 + holdout, 16, 16), np.uint8)
    np.savez(folder / f"{holdout}.npz", x_train=images[:60], x_test=images[60:])
    return open_store(str(folder / f"{holdout}.npz"), 16)


class Pixels:
    """An extractor whose features are cached: the mean of each quarter of an image. It counts the images it sees."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def measure(store, network=None, samples=30, model=None):
    """Value and error by name."""
    model = model or GaussianVAE((1, 16, 16), latent_dim=2).eval()
    extractor = Extractor("means", "none", network or Pixels(), lambda x: x.float() / 255, torch.device("cpu"))
    measured = DISTANCES(Context(model, store), Options(extractor=extractor, samples=samples))
    return {number.name: (number.value, number.error) for number in measured.numbers}


class Identity(GaussianVAE):
    """Its reconstructions are the originals: the latents are the pixels."""

    def __init__(self):
        super().__init__((1, 16, 16), latent_dim=256)

    def posterior(self, images):
        return torch.distributions.Independent(torch.distributions.Normal(images.flatten(1), 1e-6), 1)

    def decode(self, latents):
        return latents.view(-1, 1, 16, 16).clamp(0, 1)


@pytest.mark.parametrize("kept", [10_000, 25])
def test_distances_of_perfect_reconstructions_are_zero_without_an_error(store, kept, monkeypatch):
    """Each is compared with its own original, also where not all features are kept."""
    monkeypatch.setattr(distances, "_MAX_KEPT", kept)
    result = measure(store, model=Identity().eval())
    for name in ("frechet_distance", "frechet_distance_infinity", "kernel_distance"):
        assert result[f"reconstructions: {name}"] == pytest.approx((0, 0), abs=1e-9)
        assert result[f"model prior: {name}"][1] > 1e-4


def test_the_error_is_that_of_all_images(store, monkeypatch):
    """Of 40 images of which 10 are kept it is half of the error of those 10."""
    whole, sets = distances.frechet, []
    monkeypatch.setattr(distances, "_MAX_KEPT", 10)
    monkeypatch.setattr(distances, "frechet", lambda *args: sets.append(args) or whole(*args))
    result = measure(store, samples=40)
    for kind, (*both, seed) in zip(("reconstructions", "model prior"), sets, strict=True):
        kept = [distances.FeatureSet() for _ in both]
        for of_kept, features in zip(kept, both, strict=True):
            of_kept.add(features.kept)
        assert result[f"{kind}: frechet_distance"][1] == pytest.approx(whole(*kept, seed).error / 2, rel=1e-4)
        assert result[f"{kind}: frechet_distance_infinity"][1] == pytest.approx(
            whole(*kept, seed).limit_error / 2, rel=1e-4
        )


def test_features_are_cached_and_their_use_is_noted(store):
    network, model = Pixels(), GaussianVAE((1, 16, 16), latent_dim=2).eval()
    first = measure(store, network, model=model)
    (path,) = cache_folder().glob("features-*.safetensors")
    os.utime(path, (1, 1))
    assert measure(store, network, model=model) == first
    assert network.seen == 40 + 2 * (40 + 30)  # hold-out images once, reconstructions and samples twice
    assert path.stat().st_mtime > 1
    content = path.read_bytes()
    others = save({name: tensor[..., None] for name, tensor in load(content).items()})
    for damaged in (b"junk", content[:-1] + bytes([content[-1] ^ 64]), others, save({})):
        path.write_bytes(damaged)
        assert measure(store, network, model=model) == first
        assert path.read_bytes() == content


@pytest.mark.parametrize(("holdout", "samples"), [(1, 5), (1, 1), (40, 1), (2, 2), (3, 2)])
def test_very_few_images(folder, holdout, samples, capsys):
    """No distance of a single image, which a warning says; the rest is measured all the same."""
    result = measure(stored(folder, holdout), samples=samples)
    has = {kind for kind in ("reconstructions", "model prior") if f"{kind}: frechet_distance" in result}
    expected = {kind for kind, count in {"reconstructions": holdout, "model prior": samples}.items() if count > 1}
    assert has == (expected if holdout > 1 else set())
    assert all(math.isfinite(value) for value, _ in result.values())
    text = " ".join(capsys.readouterr().err.split())
    for kind in {"reconstructions", "model prior"} - has:
        assert f"no Fréchet and kernel distances of {kind}: they need at least 2 of them and 2 hold-out images" in text
    assert result["model prior: nearest_training_distance"][0] > 0
