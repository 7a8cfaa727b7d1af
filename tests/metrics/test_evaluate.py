"""evaluate: what it writes, its errors, what it does not compute again; latents and probes on models that are known."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from evae import EVAE, HVAE, WAE, GaussianVAE, evaluate, open_store, train
from evae.data import to_float
from evae.errors import ConfigError, DataError
from evae.metrics.image import PerImageMean, binary_cross_entropy, mean_squared_error
from evae.metrics.latents import describe_latents, posterior_spread
from evae.metrics.probes import probe
from evae.metrics.reconstructions import measure

SETTINGS = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def store(blobs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return open_store(blobs, 16)


@pytest.fixture
def run(blobs, tmp_path):
    return train(blobs, tmp_path / "run", partial(EVAE, latent_dim=3), **SETTINGS)


def features(images):
    """A user's extractor: mean brightness of the four quarters."""
    return torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


def test_standard_errors():
    metric = PerImageMean()
    values = torch.rand(50, dtype=torch.float64) + 100
    for batch in values.split(7):
        metric.update(batch)
    assert metric.standard_error().item() == pytest.approx(values.std().item() / math.sqrt(50))


def test_measure_has_every_metric_with_an_error(store):
    model = GaussianVAE((1, 16, 16), latent_dim=2).eval()
    metrics, errors = measure(model, store.holdout)
    names = {"bce", "mse", "psnr", "ssim", "reconstruction", "kl", "sharpness", "sharpness_real"}
    assert metrics.keys() == errors.keys() == names
    assert all(math.isfinite(v) for v in [*metrics.values(), *errors.values()])
    assert metrics["reconstruction"] == metrics["bce"]
    images = to_float(store.holdout.images, torch.device("cpu"))
    rebuilt = model.reconstruct(images, "mean")
    metrics, _ = measure(model, store.holdout, "mean")
    assert metrics["bce"] == pytest.approx(binary_cross_entropy(rebuilt, images).mean().item(), rel=1e-5)
    mse = mean_squared_error(rebuilt, images)
    assert metrics["psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-6)
    other = GaussianVAE((1, 16, 16), latent_dim=2, likelihood="gaussian").eval()
    metrics, _ = measure(other, store.holdout)
    assert metrics["bce"] != metrics["reconstruction"]


def test_repeats_average_over_samples(store):
    """The mean over 40 samples an image is nearer to another such mean than single samples are to each other."""
    model = EVAE((1, 16, 16), latent_dim=2, support_length=3.0).eval()

    def spread(repeats):
        return np.std([measure(model, store.holdout, repeats=repeats).metrics["mse"] for _ in range(6)])

    assert spread(40) < spread(1)
    assert measure(model, store.holdout, "mean", 5) == measure(model, store.holdout, "mean")


class TestLatents:
    def test_active_units_are_those_whose_centre_moves(self, store):
        model = GaussianVAE((1, 16, 16), latent_dim=4).eval()
        with torch.no_grad():
            model.encoder.loc.weight[2:] = 0
            model.encoder.loc.weight[:2] *= 1e3
        described = describe_latents(model, store.holdout)
        assert (described["active_units"], described["latent_dim"]) == (2, 4)
        rates = described["rate_per_dimension"]
        assert sum(rates) == pytest.approx(measure(model, store.holdout).metrics["kl"], rel=1e-4)
        assert min(rates[:2]) > max(rates[2:])
        assert described["share_outside"] == 0

    def test_spreads(self, store):
        images = torch.rand(3, 1, 16, 16)
        for family, name in ((EVAE, "r"), (GaussianVAE, "standard deviation"), (HVAE, "concentration"), (WAE, None)):
            model = family((1, 16, 16), latent_dim=2).eval()
            assert posterior_spread(model.posterior(images))[0] == name
            described = describe_latents(model, store.holdout)
            assert described.get("spread") == name
            assert ("rate_per_dimension" in described) == (family in (EVAE, GaussianVAE))
            if name:
                quantiles = list(described["spread_quantiles"].values())
                assert quantiles == sorted(quantiles)
        with torch.no_grad():
            model = EVAE((1, 16, 16), latent_dim=2).eval()
            model.encoder.log_scale.weight.zero_()
            model.encoder.log_scale.bias.fill_(math.log(7))
        assert describe_latents(model, store.holdout)["spread_quantiles"]["0.5"] == pytest.approx(7, rel=1e-5)


class TestProbes:
    def test_codes_that_are_the_class_are_told_apart(self, store, monkeypatch):
        """The class is whether the blob is low; codes that are the image's rows tell it."""
        model = GaussianVAE((1, 16, 16), latent_dim=4).eval()
        monkeypatch.setattr(model, "encode", lambda images: images.mean(3).flatten(1))
        result = probe(model, store)
        assert result["linear"]["latents"] > 0.85
        assert result["linear"].keys() == result["nearest_neighbours"].keys() == {"latents", "pixels", "pca"}
        assert (result["train_count"], result["count"]) == (48, 16)
        monkeypatch.setattr(model, "encode", lambda images: torch.zeros(len(images), 2))
        assert probe(model, store)["linear"]["latents"] < 0.8

    def test_data_without_labels(self, tmp_path, capsys):
        images = (np.random.default_rng(0).random((40, 16, 16)) * 255).astype(np.uint8)
        np.save(tmp_path / "images.npy", images)
        store = open_store(str(tmp_path / "images.npy"), 16)
        assert probe(GaussianVAE((1, 16, 16), latent_dim=2).eval(), store) == {}
        assert "has no labels of two classes" in " ".join(capsys.readouterr().err.split())


class TestEvaluate:
    def test_nothing_is_measured_twice(self, run, monkeypatch):
        first = evaluate(run, probes=True, show=False)
        calls = []
        monkeypatch.setattr("evae.metrics.evaluate.measure", lambda *args: calls.append(args))
        again = evaluate(run, show=False)
        assert again == first
        assert not calls
        assert json.loads((run / "evaluation.json").read_text()) == first

    def test_what_has_changed_is_measured_again(self, run, blobs):
        first = evaluate(run, likelihood=5, show=False)
        assert "likelihood" in first
        for options in ({"latents": "mean"}, {"repeats": 3}):
            changed = evaluate(run, show=False, **options)
            assert changed["metrics"] != first["metrics"]
            assert changed["likelihood"] == first["likelihood"]
        changed = evaluate(run, seed=1, show=False)
        assert changed["metrics"] != first["metrics"]
        assert "likelihood" not in changed
        train(blobs, run, partial(EVAE, latent_dim=3), **SETTINGS | {"seed": 5, "overwrite": True})
        changed = evaluate(run, show=False)
        assert "likelihood" not in changed
        assert changed["metrics"] != first["metrics"]

    def test_the_order_of_options_does_not_matter(self, run):
        """Every section starts from the seed, whatever was computed before it."""
        alone = evaluate(run, probes=True, show=False)
        (run / "evaluation.json").unlink()
        evaluate(run, show=False)
        assert evaluate(run, probes=True, show=False) == alone

    @pytest.mark.filterwarnings("ignore")
    def test_distances_by_ones_own_features(self, run, capsys):
        name = f"{__name__}:features"
        result = evaluate(run, features=name, samples=30)["distances"]
        assert result.keys() == {"reconstructions", "samples"}
        for entry in result.values():
            assert entry.keys() >= {"frechet_distance", "frechet_distance_error", "kernel_distance", "resize"}
            assert "fid" not in entry
            assert entry["frechet_distance"] > 0
            assert (entry["features"], entry["split"], entry["real_count"]) == (name, "holdout", 16)
        assert (result["samples"]["count"], result["reconstructions"]["count"]) == (30, 16)
        assert 0 <= result["samples"]["coverage"] <= 1
        assert result["samples"]["nearest_training_distance"] > 0
        text = capsys.readouterr().out
        assert "reconstructions: frechet_distance" in text
        assert "samples: coverage" in text

    def test_features_that_are_not_finite(self, run):
        with pytest.raises(DataError, match="finite"):
            evaluate(run, features=f"{__name__}:not_numbers", show=False)

    @pytest.mark.parametrize("option", ["repeats", "samples", "likelihood"])
    def test_counts(self, run, option):
        with pytest.raises(ConfigError, match=f"{option} must be at least 1"):
            evaluate(run, **{option: 0})


def not_numbers(images):
    return torch.full((len(images), 3), math.nan)


def wide(images):
    return images.flatten(1)


@pytest.mark.filterwarnings("ignore")
def test_fewer_images_than_dimensions_is_warned_of(run, capsys):
    evaluate(run, features=f"{__name__}:wide", show=False)
    assert "fewer than the" in " ".join(capsys.readouterr().err.split())
