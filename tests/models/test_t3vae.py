"""T3VAE: its joint is Student's t, and its regulariser is 0 at one posterior and positive elsewhere."""

import math

import pytest
import torch

from evae import T3VAE, VAE
from evae.distributions import MultivariateStudentT
from evae.errors import ConfigError
from evae.metrics.likelihood import importance_weighted_bound

DOUBLE = torch.float64


@pytest.fixture
def model():
    return T3VAE((3,), latent_dim=2, df=6, likelihood_scale=0.5, widths=[8]).double().eval()


def test_prior_times_likelihood_is_the_joint_students_t(model):
    z, x = torch.randn(5, 2, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    mean = model.decode(z)
    joint = MultivariateStudentT(
        6.0, torch.zeros(5, 5, dtype=DOUBLE), torch.tensor([1, 1, 0.5, 0.5, 0.5], dtype=DOUBLE)
    )
    expected = joint.log_prob(torch.cat([z, x - mean], 1))
    torch.testing.assert_close(model.prior().log_prob(z) + model.likelihood(z).log_prob(x), expected)


def test_the_regulariser_is_0_at_its_minimum_and_positive_elsewhere(model):
    df, objective = 9.0, model.objective
    at = math.sqrt(math.exp(objective.log_tau) * 6 / df)  # of Σ = τI

    def value(loc, scale):
        q = MultivariateStudentT(df, torch.full((1, 2), loc, dtype=DOUBLE), torch.tensor([scale], dtype=DOUBLE))
        return objective.divergence(model, q).item()

    assert value(0.0, [at, at]) == pytest.approx(0, abs=1e-12)
    for loc, scale in ((0.1, [at, at]), (0.0, [1.1 * at, at]), (0.0, [0.9 * at, 0.8 * at]), (2.0, [5.0, 1e-3])):
        assert value(loc, scale) > 1e-4


@pytest.mark.parametrize("shape", [(3,), (1, 16, 16)])
def test_it_trains_saves_and_is_bounded(shape, tmp_path):
    model = T3VAE(shape, latent_dim=2, df=5)
    x = torch.rand(4, *shape)
    terms = model(x)
    terms.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.sample(3).shape == (3, *shape)
    model.eval().save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    assert isinstance(loaded, T3VAE)
    torch.testing.assert_close(loaded.encode(x), model.encode(x))
    assert importance_weighted_bound(model, x, 3).isfinite().all()


def test_settings_that_cannot_work():
    for settings, sentence in (
        ({"df": 2}, "df must be above 2"),
        ({"likelihood": "gaussian"}, "T3VAE's likelihood is Student's t"),
        ({"likelihood_scale": -1.0}, "likelihood_scale must be positive"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            T3VAE((3,), **settings)
