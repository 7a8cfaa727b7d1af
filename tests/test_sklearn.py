"""The estimators for scikit-learn."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from evae import AE, GaussianVAE, load_model
from evae.errors import ConfigError, RunError
from evae.sklearn import VAEOutlierDetector, VAETransformer

SMALL = {"epochs": 2, "hyperparameters": {"widths": (8,)}, "random_state": 0, "device": "cpu"}
BOTH = pytest.mark.parametrize("cls", [VAETransformer, VAEOutlierDetector])


@pytest.fixture(scope="module")
def line():
    """Rows of three features near a line."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 1)) @ [[3.0, -20.0, 0.5]] + [100, 0, -1] + rng.normal(size=(200, 3)) * [0.1, 1, 0.02]


def test_check_estimator():
    check_estimator(VAETransformer(**SMALL), on_skip=None)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("model", ["BoundedVAE", "EVAE", "GaussianVAE", "HypersphericalVAE", "IWAE", "WAE", "RAE"])
def test_check_estimator_of_families(cls, model):
    check_estimator(cls(model, **SMALL), on_skip=None)


def test_in_a_pipeline_and_a_search():
    x, y = load_wine(return_X_y=True, as_frame=True)
    model = make_pipeline(VAETransformer(**SMALL), LogisticRegression())
    grid = {"vaetransformer__latent_dim": np.arange(1, 3), "vaetransformer__model": ["EVAE", GaussianVAE]}
    search = GridSearchCV(model, grid, cv=2).fit(x, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(x).shape == y.shape


def test_names_of_features():
    x = load_wine(as_frame=True).data
    transformer = VAETransformer(latent_dim=3, **SMALL).set_output(transform="pandas")
    codes = transformer.fit_transform(x)
    names = ["vaetransformer0", "vaetransformer1", "vaetransformer2"]
    assert list(codes.columns) == list(transformer.get_feature_names_out()) == names
    assert list(transformer.feature_names_in_) == list(x.columns)


def test_codes_tell_the_features_in_their_own_units(line):
    transformer = VAETransformer(AE, 1, epochs=20, learning_rate=5e-3, random_state=0, device="cpu").fit(line)
    errors = line - transformer.inverse_transform(transformer.transform(line))
    assert (errors.std(0) < 0.2 * line.std(0)).all()


def test_scores_are_densities_in_the_features_own_units(line):
    one, other = (VAETransformer(**SMALL).fit(x) for x in (line, 10 * line + 3))
    assert other.score_samples(10 * line + 3) == pytest.approx(one.score_samples(line) - 3 * math.log(10), abs=1e-4)


def test_scores_are_those_of_the_code(line):
    transformer = VAETransformer("GaussianVAE", **SMALL).fit(line)
    model = transformer.model_.double()
    with torch.no_grad():
        rows = torch.from_numpy(((line - line.mean(0)) / line.std(0)).astype(np.float32)).double()
        q = model.posterior(rows)
        kl = (q.variance + q.mean**2 - 1 - q.variance.log()).sum(1) / 2
        expected = model.likelihood(q.mean).log_prob(rows) - kl - np.log(line.std(0)).sum()
    assert transformer.score_samples(line) == pytest.approx(expected.numpy(), abs=1e-9)


def test_what_is_far_away_is_an_outlier(line):
    detector = VAEOutlierDetector(contamination=0.05, **SMALL | {"epochs": 20}).fit(line)
    assert (detector.predict(line) == -1).mean() == 0.05
    far = line[:5] + np.array([0, 200, 0])
    assert (detector.predict(far) == -1).all()
    assert (detector.decision_function(far) < detector.decision_function(line).min()).all()


def test_images():
    images = 16 * np.random.default_rng(0).random((20, 64)).astype(np.float32)
    transformer = VAETransformer(image_shape=(1, 8, 8), **SMALL | {"hyperparameters": {"networks": "mlp"}}).fit(images)
    assert transformer.model_.image_shape == (1, 8, 8)
    rebuilt = transformer.inverse_transform(transformer.transform(images))
    assert rebuilt.dtype == np.float32
    assert 0 <= rebuilt.min() < rebuilt.max() <= 16
    assert transformer.score_samples(images).shape == (20,)


def test_fits_are_repeated_and_leave_the_generators_alone(line):
    state = torch.get_rng_state()
    one, other = (VAETransformer(**SMALL).fit(line) for _ in range(2))
    assert np.array_equal(one.transform(line), other.transform(line))
    assert torch.equal(state, torch.get_rng_state())
    assert not np.array_equal(one.transform(line), clone(one).set_params(random_state=1).fit(line).transform(line))


def test_threads_fit_as_one_thread_does(line, capsys):
    transformers = [VAETransformer(**SMALL | {"random_state": seed}) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda transformer: transformer.fit_transform(line), transformers))
    for transformer, own in zip(transformers, codes, strict=True):
        assert np.array_equal(own, clone(transformer).fit_transform(line))
    assert capsys.readouterr().err == ""


def test_early_stopping_takes_the_best_epoch(line):
    settings = SMALL | {"epochs": 200, "learning_rate": 0.1}
    transformer = VAETransformer("GaussianVAE", patience=3, validation_fraction=0.25, **settings).fit(line)
    losses = [epoch["validation_loss"] for epoch in transformer.history_]
    assert transformer.n_iter_ == len(losses) == int(np.argmin(losses)) + 1 + 3 < 200


def test_epochs_are_told_where_they_are_asked_for(line, capsys):
    VAETransformer(**SMALL).fit(line)
    assert capsys.readouterr().err == ""
    VAETransformer(verbose=True, **SMALL).fit(line)
    assert "epoch 2/2  loss" in capsys.readouterr().err


class TestFiles:
    def test_a_transformer_comes_back(self, line, tmp_path):
        transformer = VAETransformer(partial(GaussianVAE, widths=(5,)), **SMALL | {"hyperparameters": None}).fit(line)
        transformer.save(tmp_path / "it")
        names = {path.name for path in (tmp_path / "it").iterdir()}
        assert names >= {"estimator.json", "config.json", "model.safetensors"}
        assert {path.suffix for path in (tmp_path / "it").iterdir()} == {".json", ".safetensors", ".md"}
        loaded = VAETransformer.load(tmp_path / "it")
        assert np.array_equal(loaded.transform(line), transformer.transform(line))
        assert np.array_equal(loaded.score_samples(line), transformer.score_samples(line))
        again = clone(loaded).fit(line)
        assert np.array_equal(again.transform(line), transformer.transform(line))
        assert isinstance(load_model(tmp_path / "it"), GaussianVAE)

    def test_a_detector_comes_back(self, tmp_path):
        x = load_wine(as_frame=True).data
        detector = VAEOutlierDetector(**SMALL).fit(x)
        detector.save(tmp_path)
        loaded = VAEOutlierDetector.load(tmp_path)
        assert np.array_equal(loaded.predict(x), detector.predict(x))
        assert list(loaded.feature_names_in_) == list(x.columns)

    def test_what_is_none_gets_a_sentence(self, line, tmp_path):
        with pytest.raises(RunError, match="holds no estimator"):
            VAETransformer.load(tmp_path)
        VAETransformer(**SMALL).fit(line).save(tmp_path)
        with pytest.raises(RunError, match="holds a VAETransformer, not a VAEOutlierDetector"):
            VAEOutlierDetector.load(tmp_path)
        path = tmp_path / "estimator.json"
        record = json.loads(path.read_text())
        for change, message in (
            ({"shift": [0.0]}, "of another model"),
            ({"scale": [0.0, 1.0, 1.0]}, "not positive"),
            ({"parameters": record["parameters"] | {"image_shape": [1, 1, 3]}}, "of another model"),
            ({"parameters": record["parameters"] | {"device": 1}}, "device must be one of"),
            ({"parameters": record["parameters"] | {"nope": 1}}, "is damaged .*nope"),
            ({"scale": "x"}, "holds no estimator"),
        ):
            path.write_text(json.dumps(record | change))
            with pytest.raises(RunError, match=message):
                VAETransformer.load(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "Nope"}, "model must be one of EVAE"),
        ({"model": "nowhere.Nope"}, "'nowhere' cannot be imported"),
        ({"hyperparameters": {"nope": 1}}, "cannot be made with these hyperparameters: .*nope"),
        ({"hyperparameters": {"kernel": "nope"}}, "kernel must be one of"),
        ({"image_shape": (1, 2, 2)}, r"images of shape \(1, 2, 2\) do not have 3 features"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"latent_dim": 1.5}, "latent_dim must be a whole number"),
        ({"patience": 3, "validation_fraction": 0.999}, "early stopping leaves fewer than 2 of 200 rows"),
        ({"patience": 3, "validation_fraction": 2}, "validation_fraction must be between 0 and 1"),
        ({"model": "VampVAE"}, "initialises from 500 training rows, but there are only 200"),
        ({"device": "abacus"}, "accelerator must be one of"),
        ({"contamination": 0.7}, "contamination must be in"),
    ],
)
def test_what_cannot_work_gets_a_sentence(line, parameters, message):
    cls = VAEOutlierDetector if "contamination" in parameters else VAETransformer
    with pytest.raises(ConfigError, match=message):
        cls(**SMALL | {"hyperparameters": None} | parameters).fit(line)


def test_codes_of_another_number_are_refused(line):
    with pytest.raises(ConfigError, match="codes have 2 columns, not 3"):
        VAETransformer(**SMALL).fit(line).inverse_transform(line)
