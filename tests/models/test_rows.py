"""Models of rows of numbers: an MLP for every family, and the likelihoods of columns."""

import math

import pytest
import torch
from scipy import stats

from evae import EVAE, GaussianVAE, VampVAE
from evae.errors import ConfigError
from evae.models.likelihoods import GaussianLikelihood, StudentLikelihood
from evae.models.networks import MlpDecoder, MlpEncoder

ROW = (5,)


@pytest.mark.parametrize("likelihood", ["gaussian", "student"])
def test_every_family_models_rows(family, likelihood):
    rows = 3 * torch.randn(6, 5)
    model = family(ROW, latent_dim=2, likelihood=likelihood, widths=[8, 4])
    terms = model(rows)
    terms.loss.backward()
    assert terms.reconstruction.shape == terms.divergence.shape == (6,)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.reconstruct(rows).shape == (6, 5)
    assert model.sample(3).shape == (3, 5)


def test_rows_take_an_mlp_and_a_gaussian_unless_told_otherwise(tmp_path):
    model = GaussianVAE(ROW, latent_dim=2)
    assert type(model.encoder.body) is MlpEncoder
    assert type(model.decoder) is MlpDecoder
    assert [m.out_features for m in model.decoder if isinstance(m, torch.nn.Linear)] == [256, 256, 5]
    chosen = {name: model.hyperparameters[name] for name in ("networks", "likelihood", "widths")}
    assert chosen == {"networks": "mlp", "likelihood": "gaussian", "widths": None}
    assert GaussianVAE((1, 16, 16), latent_dim=2).hyperparameters["networks"] == "paper"
    model.save_pretrained(tmp_path)
    rows = torch.randn(4, 5)
    torch.testing.assert_close(GaussianVAE.from_pretrained(tmp_path).encode(rows), model.eval().encode(rows))


def test_an_mlp_takes_images_too():
    model = EVAE((1, 3, 4), latent_dim=2, networks="mlp", widths=[7])
    assert model.reconstruct(torch.rand(2, 1, 3, 4)).shape == (2, 1, 3, 4)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_likelihoods_of_columns_are_scipys(scale):
    x, maps = torch.randn(2, 7, 3, dtype=torch.float64)
    gaussian, student = GaussianLikelihood((3,), scale).double(), StudentLikelihood((3,), scale).double()
    with torch.no_grad():
        student.log_df.copy_(torch.tensor([math.log(0.5), 0.0, 3.0]))
    s = 0.5 if scale else 1.0
    expected = stats.norm(maps, s).logpdf(x).sum(1), stats.t(student.df.detach(), maps, s).logpdf(x).sum(1)
    for likelihood, value in zip((gaussian, student), expected, strict=True):
        torch.testing.assert_close(likelihood(maps).log_prob(x).detach(), torch.from_numpy(value))
        torch.testing.assert_close(likelihood(maps).mean.detach(), maps)
    assert [name for name, _ in gaussian.named_parameters()] == ([] if scale else ["log_scale"])


def test_pseudo_inputs_of_rows_have_no_range():
    model = VampVAE(ROW, latent_dim=2, pseudo_inputs=3)
    with torch.no_grad():
        model.prior.pseudo_inputs.fill_(-7.0)
    torch.testing.assert_close(model.eval().prior().component_distribution.mean, model.encode(torch.full((3, 5), -7.0)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"networks": "paper"}, "for images; rows of numbers take --model.networks mlp"),
        ({"likelihood": "bernoulli"}, "'bernoulli' is for images in"),
        ({"widths": []}, "at least one width"),
        ({"widths": [0]}, "widths must be at least 1"),
        ({"likelihood_scale": 0.0}, "likelihood_scale must be positive"),
    ],
)
def test_what_rows_do_not_take_is_said_in_a_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        GaussianVAE(ROW, latent_dim=2, **options)
    with pytest.raises(ConfigError, match="widths are for networks 'mlp'"):
        GaussianVAE((1, 16, 16), widths=[3])
    with pytest.raises(ConfigError, match="likelihood_scale is for"):
        GaussianVAE((1, 16, 16), likelihood_scale=1.0)


def test_rows_are_checked_as_images_are():
    model = GaussianVAE(ROW, latent_dim=2)
    for wrong in (torch.zeros(2, 4), torch.full((2, 5), math.nan), torch.zeros(2, 5, dtype=torch.int)):
        with pytest.raises(ConfigError, match=r"rows of finite floating-point numbers of shape \(N, 5\)"):
            model.encode(wrong)
