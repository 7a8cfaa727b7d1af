"""evaluate: what it writes, its errors, what it does not compute again; latents and probes on models that are known."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from evae import EVAE, HVAE, VAE, WAE, GaussianVAE, evaluate, open_store, train
from evae.data import to_float
from evae.distributions import PointMass
from evae.errors import ConfigError, DataError
from evae.metrics import command
from evae.metrics.command import results_table
from evae.metrics.image import METRICS, binary_cross_entropy, mean_squared_error
from evae.metrics.latents import LATENTS, posterior_spread
from evae.metrics.probes import PROBES
from evae.metrics.reconstructions import RECONSTRUCTIONS
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, read_evaluation

SETTINGS = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def store(blobs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return open_store(blobs, 16)


@pytest.fixture(scope="module")
def trained(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(folder / "cache"))
        return train(blobs, folder / "run", partial(EVAE, latent_dim=3), **SETTINGS)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def features(images):
    """A user's extractor: mean brightness of the four quarters."""
    return torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


def measure(model, store, latents="sample", repeats=1, seed=0):
    """Means and standard errors of the reconstructions."""
    numbers = RECONSTRUCTIONS(Context(model, store, seed), Options(latents, repeats)).numbers
    return {n.name: n.value for n in numbers}, {n.name: n.error for n in numbers}


def describe_latents(model, store):
    described = LATENTS(Context(model, store), Options())
    return {n.name: n.value for n in described.numbers} | described.details


def probe(model, store):
    """Accuracies by kind and input, and the settings."""
    measured = PROBES(Context(model, store), Options(probes=True))
    return {n.name.replace(" accuracy", ""): n.value for n in measured.numbers}, measured.settings


def distances(result, kind):
    numbers = result["sections"]["distances"]["numbers"]
    return {n["name"].removeprefix(f"{kind}: "): n for n in numbers if n["name"].startswith(f"{kind}: ")}


def test_standard_errors():
    values = torch.rand(50, dtype=torch.float64) + 100
    assert mean_of("x", values).value == pytest.approx(values.mean().item())
    assert mean_of("x", values).error == pytest.approx(values.std().item() / math.sqrt(50))
    assert mean_of("x", values[:1]).error is None


def test_measure_has_every_metric_with_an_error(store):
    model = GaussianVAE((1, 16, 16), latent_dim=2).eval()
    metrics, errors = measure(model, store)
    names = {"bce", "mse", "psnr", "ssim", "reconstruction", "kl", "sharpness", "sharpness_real"}
    assert metrics.keys() == errors.keys() == names
    assert all(math.isfinite(v) for v in [*metrics.values(), *errors.values()])
    assert metrics["reconstruction"] == metrics["bce"]
    images = to_float(store.holdout.images, torch.device("cpu"))
    rebuilt = model.reconstruct(images, "mean")
    metrics, _ = measure(model, store, "mean")
    assert metrics["bce"] == pytest.approx(binary_cross_entropy(rebuilt, images).mean().item(), rel=1e-5)
    mse = mean_squared_error(rebuilt, images)
    assert metrics["psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-6)
    other = GaussianVAE((1, 16, 16), latent_dim=2, likelihood="gaussian").eval()
    metrics, _ = measure(other, store)
    assert metrics["bce"] != metrics["reconstruction"]


def test_repeats_average_over_samples(store):
    """The mean over 40 samples an image is nearer to another such mean than single samples are to each other."""
    model = EVAE((1, 16, 16), latent_dim=2, support_length=3.0).eval()

    def spread(repeats):
        return np.std([measure(model, store, repeats=repeats, seed=seed)[0]["mse"] for seed in range(6)])

    assert spread(40) < spread(1)
    assert measure(model, store, "mean", 5) == measure(model, store, "mean")


class TestLatents:
    def test_active_units_are_those_whose_centre_moves(self, store):
        model = GaussianVAE((1, 16, 16), latent_dim=4).eval()
        with torch.no_grad():
            model.encoder.loc.weight[2:] = 0
            model.encoder.loc.weight[:2] *= 1e3
        described = describe_latents(model, store)
        assert (described["active_units"], described["latent_dim"]) == (2, 4)
        rates = described["rate_per_dimension"]
        assert sum(rates) == pytest.approx(measure(model, store)[0]["kl"], rel=1e-4)
        assert min(rates[:2]) > max(rates[2:])
        assert described["share_outside"] == 0

    def test_spreads(self, store):
        images = torch.rand(3, 1, 16, 16)
        for family, name in ((EVAE, "r"), (GaussianVAE, "standard deviation"), (HVAE, "concentration"), (WAE, None)):
            model = family((1, 16, 16), latent_dim=2).eval()
            assert posterior_spread(model.posterior(images))[0] == name
            described = describe_latents(model, store)
            assert described.get("spread") == name
            assert ("rate_per_dimension" in described) == (family in (EVAE, GaussianVAE))
            if name:
                quantiles = list(described["spread_quantiles"].values())
                assert quantiles == sorted(quantiles)
        with torch.no_grad():
            model = EVAE((1, 16, 16), latent_dim=2).eval()
            model.encoder.log_scale.weight.zero_()
            model.encoder.log_scale.bias.fill_(math.log(7))
        assert describe_latents(model, store)["spread_quantiles"]["0.5"] == pytest.approx(7, rel=1e-5)


class TestProbes:
    def test_codes_that_are_the_class_are_told_apart(self, store, monkeypatch):
        """The class is whether the blob is low; codes that are the image's rows tell it."""
        model = GaussianVAE((1, 16, 16), latent_dim=4).eval()
        monkeypatch.setattr(model, "posterior", lambda images: PointMass(images.mean(3).flatten(1)))
        result, settings = probe(model, store)
        assert result["linear, latents"] > 0.85
        kinds, inputs = ("linear", "nearest_neighbours"), ("latents", "pixels", "pca")
        assert list(result) == [f"{kind}, {name}" for kind in kinds for name in inputs]
        assert settings == {"train_count": 48, "count": 16}
        monkeypatch.setattr(model, "posterior", lambda images: PointMass(torch.zeros(len(images), 2)))
        assert probe(model, store)[0]["linear, latents"] < 0.8

    def test_data_without_labels(self, tmp_path, capsys):
        images = (np.random.default_rng(0).random((40, 16, 16)) * 255).astype(np.uint8)
        np.save(tmp_path / "images.npy", images)
        store = open_store(str(tmp_path / "images.npy"), 16)
        assert probe(GaussianVAE((1, 16, 16), latent_dim=2).eval(), store) == ({}, {})
        assert "has no labels of two classes" in " ".join(capsys.readouterr().err.split())


class TestEvaluate:
    def test_nothing_is_measured_twice(self, run, monkeypatch):
        first = evaluate(run, probes=True, show=False)
        calls = []
        monkeypatch.setattr(VAE, "posterior", lambda *args: calls.append(args))
        again = evaluate(run, show=False)
        assert again == first
        assert not calls
        assert json.loads((run / "evaluation.json").read_text()) == first

    def test_what_has_changed_is_measured_again(self, run, blobs):
        first = evaluate(run, likelihood=5, show=False)
        assert "likelihood" in first["sections"]
        for options in ({"latents": "mean"}, {"repeats": 3}):
            changed = evaluate(run, show=False, **options)
            assert changed["metrics"] != first["metrics"]
            assert changed["sections"]["likelihood"] == first["sections"]["likelihood"]
        changed = evaluate(run, seed=1, show=False)
        assert changed["metrics"] != first["metrics"]
        assert "likelihood" not in changed["sections"]
        train(blobs, run, partial(EVAE, latent_dim=3), **SETTINGS | {"seed": 5, "overwrite": True})
        changed = evaluate(run, show=False)
        assert "likelihood" not in changed["sections"]
        assert changed["metrics"] != first["metrics"]

    def test_the_order_of_options_does_not_matter(self, run):
        """Every section starts from the seed, whatever was computed before it."""
        alone = evaluate(run, probes=True, show=False)
        (run / "evaluation.json").unlink()
        evaluate(run, show=False)
        assert evaluate(run, probes=True, show=False) == alone

    @pytest.mark.filterwarnings("ignore")
    def test_the_encoder_sees_the_images_once_and_the_callers_random_numbers_stay(self, run, monkeypatch):
        counted, posterior = [], VAE.posterior
        monkeypatch.setattr(VAE, "posterior", lambda self, x: (counted.append(len(x)), posterior(self, x))[1])
        expected = torch.get_rng_state()
        evaluate(run, features=f"{__name__}:features", likelihood=2, show=False)
        assert counted == [16]
        assert torch.equal(torch.get_rng_state(), expected)

    @pytest.mark.filterwarnings("ignore")
    def test_own_code_is_measured_each_time(self, run, monkeypatch):
        options = {"features": f"{__name__}:features", "samples": 30, "show": False}
        calls, measured = [], command.DISTANCES.measure
        again = replace(command.DISTANCES, measure=lambda *args: (calls.append(1), measured(*args))[1])
        monkeypatch.setattr(command, "MEASUREMENTS", (again,))
        first, second = evaluate(run, **options), evaluate(run, **options)
        assert len(calls) == 2
        assert first["sections"]["distances"]["numbers"] == second["sections"]["distances"]["numbers"]

    @pytest.mark.filterwarnings("ignore")
    def test_distances_by_ones_own_features(self, run, capsys):
        name = f"{__name__}:features"
        result = evaluate(run, features=name, samples=30)
        for kind in ("reconstructions", "model prior"):
            entry = distances(result, kind)
            assert entry.keys() >= {"frechet_distance", "kernel_distance"}
            assert "fid" not in entry
            assert entry["frechet_distance"]["value"] > 0
            assert entry["frechet_distance"]["error"] > 0
            assert entry["frechet_distance"]["better"] == "lower"
        settings = result["sections"]["distances"]["settings"]
        assert (settings["features"], settings["resize"], settings["real_count"]) == (name, f"by {name}", 16)
        assert (settings["model prior: count"], settings["reconstructions: count"]) == (30, 16)
        assert 0 <= distances(result, "model prior")["coverage"]["value"] <= 1
        assert distances(result, "model prior")["nearest_training_distance"]["value"] > 0
        text = capsys.readouterr().out
        assert "reconstructions: frechet_distance" in text
        assert "model prior: coverage" in text

    def test_features_that_are_not_finite(self, run):
        with pytest.raises(DataError, match="finite"):
            evaluate(run, features=f"{__name__}:not_numbers", show=False)

    @pytest.mark.parametrize("option", ["repeats", "samples", "likelihood"])
    def test_counts(self, run, option):
        with pytest.raises(ConfigError, match=f"{option} must be at least 1"):
            evaluate(run, **{option: 0})


class TestOtherData:
    """Images that the run was not trained on have a file of their own."""

    @pytest.fixture
    def other(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
        (tmp_path / "a").mkdir()
        np.save(tmp_path / "a" / "ot her.v1.npy", images)
        return tmp_path / "a" / "ot her.v1.npy"

    def test_the_runs_own_evaluation_stays(self, run, other):
        own = evaluate(run, show=False)
        files = {path: path.read_bytes() for path in run.glob("evaluation*")}
        result = evaluate(run, data=str(other), image_size=16, show=False)
        assert result["data"] == str(other)
        assert result["metrics"] != own["metrics"]
        assert {path: path.read_bytes() for path in files} == files
        names = {path.name for path in run.glob("evaluation*")}
        assert names == {f"evaluation{stem}.{end}" for stem in ("", "-ot-her.v1") for end in ("json", "safetensors")}
        assert read_evaluation(RunFolder(run), "evaluation-ot-her.v1.json").to_dict().items() <= result.items()

    def test_other_images_of_one_name_do_not_replace_each_other(self, run, other, tmp_path):
        first = evaluate(run, data=str(other), image_size=16, show=False)
        (tmp_path / "b").mkdir()
        np.save(tmp_path / "b" / other.name, 255 - np.load(other))
        second = evaluate(run, data=str(tmp_path / "b" / other.name), image_size=16, show=False)
        assert first["images"] != second["images"]
        assert json.loads((run / "evaluation-ot-her.v1.json").read_text()) == first
        path = run / f"evaluation-ot-her.v1-{second['images'][:8]}.json"
        assert json.loads(path.read_text()) == second

    def test_the_runs_own_images_under_another_name_are_its_own(self, run, blobs, tmp_path):
        copy = tmp_path / "copy.npz"
        copy.write_bytes(Path(blobs).read_bytes())
        own = evaluate(run, show=False)
        named = evaluate(run, data=str(copy), image_size=16, show=False)
        assert {path.name for path in run.glob("evaluation*.json")} == {"evaluation.json"}
        assert named["sections"] == own["sections"]
        evaluate(run, data=str(copy), image_size=16, crop=12, show=False)  # cropped in another way
        assert (run / "evaluation-copy.json").exists()


class TestFile:
    """Versions, damage, values of each image."""

    def test_values_of_each_image(self, run):
        result = evaluate(run, show=False)
        evaluation = read_evaluation(RunFolder(run))
        for name, mean in result["metrics"].items():
            values = evaluation.per_image(name)
            assert (values.shape, values.dtype) == ((16,), np.float64)
            assert values.mean() == pytest.approx(mean, rel=1e-12)
            assert values.std(ddof=1) / 4 == pytest.approx(result["standard_errors"][name], rel=1e-9)
        assert evaluation.per_image("active_units") is None
        again = evaluate(run, likelihood=2, show=False)  # the values of sections that are not measured again stay
        assert read_evaluation(RunFolder(run)).per_image("mse").mean() == again["metrics"]["mse"]

    def test_directions(self, run):
        evaluate(run, probes=True, show=False)
        evaluation = read_evaluation(RunFolder(run))
        better = {number.name: number.better for number in evaluation.numbers}
        lower, higher, none = {"bce", "mse", "reconstruction"}, {"psnr", "ssim"}, {"sharpness_real", "penalty"}
        assert {better[name] for name in lower} == {"lower"}
        assert {better[name] for name in higher | {name for name in better if "accuracy" in name}} == {"higher"}
        assert {better[name] for name in none | {"active_units", "share_outside"}} == {None}
        sharpness = evaluation.number("sharpness")
        assert sharpness.better == "reference"
        assert sharpness.reference == evaluation.number("sharpness_real").value

    @pytest.mark.parametrize("content", ['{"metrics": {"mse": 1}, "keys": {}}', "{", "[]"])
    def test_old_and_damaged_files_are_written_again(self, run, content):
        expected = evaluate(run, show=False)
        (run / "evaluation.json").write_text(content)
        assert evaluate(run, show=False) == expected

    def test_damaged_values_are_measured_again(self, run):
        expected = evaluate(run, show=False)
        (run / "evaluation.safetensors").write_bytes(b"junk")
        assert evaluate(run, show=False) == expected
        assert read_evaluation(RunFolder(run)).per_image("mse") is not None


def test_the_table_of_two_runs_fits_80_columns(run):
    result = evaluate(run, features="efficientnet-lite0", probes=True, show=False)
    evaluation = Evaluation.from_dict(result)
    console = Console(width=80, record=True, file=StringIO())
    console.print(results_table({"runs/a-long-name-of-a-run": evaluation, str(run): evaluation}))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for number in evaluation.numbers:
        assert text.count(str(number)) >= 2
        assert "…" not in text


def test_a_section_of_ones_own(run, monkeypatch, capsys):
    """A function and its name in the list; the table and the file have its numbers."""

    def contrast(context, options):
        values = torch.cat([images.flatten(1).std(1) for images, _ in context.batches("contrast")])
        return Measured([mean_of("contrast", values, "higher")], per_image={"contrast": values})

    monkeypatch.setattr(command, "MEASUREMENTS", (*command.MEASUREMENTS, Measurement("contrast", contrast)))
    result = evaluate(run)
    assert "contrast" in capsys.readouterr().out
    (number,) = result["sections"]["contrast"]["numbers"]
    assert number["better"] == "higher"
    assert read_evaluation(RunFolder(run)).per_image("contrast").mean() == pytest.approx(number["value"])


def test_a_metric_of_ones_own(run, monkeypatch):
    """A function and a line in the list."""

    def absolute_error(reconstructions, images):
        return (reconstructions - images).abs().flatten(1).mean(1)

    monkeypatch.setattr("evae.metrics.reconstructions.METRICS", [*METRICS, ("mae", "lower", absolute_error)])
    result = evaluate(run, show=False)
    assert 0 < result["metrics"]["mae"] < 1
    assert result["standard_errors"]["mae"] > 0
    assert read_evaluation(RunFolder(run)).number("mae").better == "lower"


def not_numbers(images):
    return torch.full((len(images), 3), math.nan)


def wide(images):
    return images.flatten(1)


@pytest.mark.filterwarnings("ignore")
def test_fewer_images_than_dimensions_is_warned_of(run, capsys):
    evaluate(run, features=f"{__name__}:wide", show=False)
    assert "16 images are fewer than twice the 256 dimensions" in " ".join(capsys.readouterr().err.split())
