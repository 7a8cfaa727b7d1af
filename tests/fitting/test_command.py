"""evae fit-prior: files, messages, and every command that uses the prior."""

import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch

from evae import EVAE, VAE, WAE, GaussianVAE, evaluate, fit_prior, load_model, report, sample, train
from evae.cli import main
from evae.errors import ConfigError, DataError, RunError
from evae.models import pretrained
from tests.small import trained


@pytest.fixture(scope="module")
def _folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fitted")


@pytest.fixture(scope="module")
def _run(_folder, blobs, _shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        folder = trained(EVAE, blobs, _folder / "evae")
        fit_prior(folder, components=2)
    return folder


@pytest.fixture
def run(_run, tmp_path):
    """An EVAE with a fitted mixture."""
    return shutil.copytree(_run, tmp_path / "run")


@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow", "vae"])
def test_it_is_saved_and_loaded(run, kind, capsys):
    folder = fit_prior(run, kind=kind, components=2, fit_epochs=1)
    assert folder == run / "prior"
    assert {path.name for path in folder.iterdir()} == {"prior.json", "prior.safetensors"}
    err = " ".join(capsys.readouterr().err.split())
    assert f"{folder}: {kind}" in err
    assert ("held-out log-density" in err) == (kind != "vae")
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(load_model(run).fitted_prior.sample((5,)))
    assert torch.equal(*draws)
    assert draws[0].shape == (5, 3)
    model = load_model(run)
    again = model.read_prior()
    model.save_pretrained(run.parent / "copy")
    copy = type(model).from_pretrained(run.parent / "copy").read_prior()
    assert copy.identity == again.identity
    assert all(torch.equal(copy.tensors[name], tensor) for name, tensor in again.tensors.items())


def test_it_comes_with_a_model_of_the_hub(run, monkeypatch):
    monkeypatch.setattr(pretrained, "hf_hub_download", lambda model_id, name, **options: run / name)
    assert VAE.from_pretrained("someone/model").read_prior().identity == load_model(run).read_prior().identity
    shutil.rmtree(run / "prior")
    assert VAE.from_pretrained("someone/model").fitted_prior is None


def test_auto_keeps_the_kind_with_the_highest_held_out_density(run, capsys):
    fit_prior(run, kind="auto", components=2, fit_epochs=1)
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    scores = {
        line.partition(":")[0]: float(line.partition("log-density ")[2].split()[0])
        for line in lines
        if "held-out log-density" in line
    }
    assert {name.split()[0] for name in scores} == {"gaussian", "gmm", "kde", "flow"}
    best = max(scores, key=scores.get)
    assert str(load_model(run).read_prior()) == best


def test_a_preset_sets_all_of_it(run):
    fit_prior(run, preset="dai-wipf", fit_epochs=1)
    prior = load_model(run).read_prior()
    assert (prior.kind, prior.settings) == ("vae", {"dim": 3, "depth": 3, "width": 1024})
    assert prior.about["preset"] == "dai-wipf"
    fit_prior(run, preset="pythae-maf", fit_epochs=1)
    settings = {"dim": 3, "flow": "maf", "transforms": 2, "depth": 3, "width": 128}
    assert load_model(run).read_prior().settings == settings
    fit_prior(run, kind="flow", flow="coupling-splines", transforms=1, width=8, fit_epochs=1)
    assert load_model(run).read_prior().settings["flow"] == "coupling-splines"
    with pytest.raises(ConfigError, match="--preset rae-gmm10 sets the density; without it --components can be given"):
        fit_prior(run, preset="rae-gmm10", components=3)


class TestSample:
    def test_it_draws_from_the_fitted_prior(self, run, capsys):
        arrays = {}
        for prior in ("fitted", "model"):
            path = sample(run, 6, run.parent / f"{prior}.npy", prior=prior)
            arrays[prior] = np.load(path)
            assert f"6 samples of the {prior} prior" in " ".join(capsys.readouterr().err.split())
        assert not np.array_equal(arrays["fitted"], arrays["model"])

    def test_it_fits_the_default_one_first(self, run, capsys):
        shutil.rmtree(run / "prior")
        sample(run, 6, run.parent / "a.npy")
        err = " ".join(capsys.readouterr().err.split())
        assert f"no prior was fitted to the codes of {run}" in err
        assert load_model(run).read_prior().kind == "gmm"
        sample(run, 6, run.parent / "b.npy")
        assert "no prior was fitted" not in capsys.readouterr().err
        assert (run.parent / "a.npy").read_bytes() == (run.parent / "b.npy").read_bytes()

    def test_without_images_it_names_the_way_out(self, run):
        shutil.rmtree(run / "prior")
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("blobs.npz", "gone.npz"))
        with pytest.raises(DataError, match="--prior model draws from the prior the model was trained with"):
            sample(run, 6)

    def test_from_python(self, run):
        model = load_model(run)
        assert model.sample(3).shape == (3, 1, 16, 16)
        shutil.rmtree(run / "prior")
        model = load_model(run)
        assert model.fitted_prior is None
        assert model.sample(3).shape == (3, 1, 16, 16)
        with pytest.raises(ConfigError, match="no prior was fitted"):
            model.sample(3, prior="fitted")


class TestBadPriors:
    def test_of_other_weights(self, run):
        """Training further leaves the prior behind; other commands go on, those that need it say so."""
        record = json.loads((run / "prior" / "prior.json").read_text())
        (run / "prior" / "prior.json").write_text(json.dumps(record | {"weights": "0" * 32}))
        for use in (sample, partial(evaluate, likelihood=1, show=False)):
            with pytest.raises(RunError, match=rf"other weights than those of {run}; evae fit-prior {run} fits"):
                use(run)
        evaluate(run, show=False)
        sample(run, 2, prior="model")
        fit_prior(run)
        sample(run, 2)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda folder: (folder / "prior.json").write_text("{"),
            lambda folder: (folder / "prior.json").write_text("[]"),
            lambda folder: (folder / "prior.json").write_text('{"version": 9}'),
            lambda folder: (folder / "prior.safetensors").write_bytes(b"x"),
            lambda folder: (folder / "prior.safetensors").unlink(),
            lambda folder: edit(folder, kind="moon"),
            lambda folder: edit(folder, kind="kde"),
            lambda folder: edit(folder, kind="flow"),
            lambda folder: edit(folder, settings=3),
        ],
    )
    def test_damaged(self, run, damage):
        damage(run / "prior")
        with pytest.raises(RunError, match=r"prior (in .*/prior )?is damaged \(.*\); evae fit-prior .*fits it again"):
            sample(run, 2)

    def test_bad_input(self, run, blobs, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="a mixture of 40 components needs at least 80 training images"):
            fit_prior(run, components=40)
        with pytest.raises(ConfigError, match="kind must be one of auto, gaussian, gmm, kde, flow, vae, not 'moon'"):
            fit_prior(run, kind="moon")
        with pytest.raises(RunError, match="is not a run folder"):
            fit_prior(tmp_path / "nothing")
        with pytest.raises(ConfigError, match="those of this WAE have none"):
            fit_prior(trained(WAE, blobs, tmp_path / "wae"), kind="kde")
        monkeypatch.setitem(sys.modules, "zuko", None)
        with pytest.raises(ConfigError, match=r"needs pip install 'evae\[flow\]'"):
            fit_prior(run, kind="flow")


def edit(folder, **values):
    record = json.loads((folder / "prior.json").read_text())
    (folder / "prior.json").write_text(json.dumps(record | values))


def features(images):
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class TestEvaluate:
    options = {"features": f"{__name__}:features", "samples": 30, "likelihood": 5, "show": False}  # noqa: RUF012

    @pytest.mark.filterwarnings("ignore")
    def test_both_priors_are_measured(self, run):
        sections = evaluate(run, **self.options)["sections"]
        names = {n["name"] for section in sections.values() for n in section["numbers"]}
        for prior in ("model", "fitted"):
            for metric in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
                assert f"{prior} prior: {metric}" in names
            assert f"{prior} prior: nearest_training_distance" in names
        assert sections["distances, fitted prior"]["details"]["prior"] == "gmm (2 components)"
        # a uniform prior has no bound, a mixture of Gaussians has one
        assert sections["likelihood"]["numbers"] == []
        bound, rate = sections["likelihood, fitted prior"]["numbers"]
        assert (bound["name"], rate["name"]) == ("ln p(x) ≥, fitted prior", "rate, fitted prior")
        assert np.isfinite(bound["value"])
        assert 0 < rate["value"] < np.inf

    @pytest.mark.filterwarnings("ignore")
    def test_sections_of_another_prior_go(self, run):
        before = evaluate(run, **self.options)["sections"]
        kept = evaluate(run, show=False)["sections"]
        assert kept["likelihood, fitted prior"] == before["likelihood, fitted prior"]
        fit_prior(run, kind="gaussian")
        assert "likelihood, fitted prior" not in evaluate(run, show=False)["sections"]
        after = evaluate(run, likelihood=5, show=False)["sections"]
        assert after["likelihood"] == before["likelihood"]
        assert after["likelihood, fitted prior"]["numbers"] != before["likelihood, fitted prior"]["numbers"]


def test_the_report_shows_both_and_the_nearest_training_images(run):
    page = report(run).read_text()
    for text in (
        "64 samples of the model&#39;s own prior",
        "64 samples of the fitted prior",
        "gmm (2 components)",
        "Copy check",
        "samples of the fitted prior above their nearest training images",
    ):
        assert text in page
    assert "&amp;#39;" not in page


class TestTrain:
    def test_fit_prior(self, blobs, tmp_path):
        settings = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
        run = train(blobs, tmp_path / "run", partial(GaussianVAE, latent_dim=2), fit_prior="gaussian", **settings)
        assert load_model(run).read_prior().kind == "gaussian"
        train(blobs, run, partial(GaussianVAE, latent_dim=2), overwrite=True, **settings)
        assert not (run / "prior").exists()

    def test_what_cannot_be_fitted_is_said_before_training(self, blobs, tmp_path):
        with pytest.raises(ConfigError, match="a kde needs posteriors with a density"):
            train(blobs, tmp_path / "run", partial(WAE, latent_dim=2), fit_prior="kde", image_size=16, batch_size=16)
        assert not (tmp_path / "run").exists()


def test_from_the_command_line(run, capsys):
    assert main(["fit-prior", str(run), "--kind", "gaussian"]) == 0
    assert load_model(run).read_prior().kind == "gaussian"
    assert main(["sample", str(run), "--prior", "model", "--count", "4"]) == 0
    assert main(["fit-prior", str(run), "--components", "40"]) == 2
    assert "evae: a mixture of 40 components needs at least 80 training images" in capsys.readouterr().err
