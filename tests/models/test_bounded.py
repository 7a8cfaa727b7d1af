"""BoundedVAE: supports inside the prior's, a bound on ln p(x), gradients and extremes."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from evae import BoundedVAE
from evae.distributions import KERNELS, coordinates
from evae.errors import ConfigError
from evae.models.encoders import BoundedEncoder
from evae.models.priors import KernelPrior, UniformPrior

SHAPE = (1, 16, 16)
BOUNDED = [name for name, kernel in KERNELS.items() if kernel.bounded]


class Heads(nn.Module):
    """A body whose features are the image itself, for an encoder whose heads a test sets."""

    def forward(self, images):
        return images.flatten(1)


def encoder(kernel, prior):
    body = BoundedEncoder(Heads(), (1, 1, 2), prior.latent_dim, KERNELS[kernel], prior)
    with torch.no_grad():
        for head, column in ((body.loc, 0), (body.log_odds, 1)):
            head.weight.zero_()
            head.weight[:, column] = 1
            head.bias.zero_()
    return body


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [2.0, 0.1, 3e4, 1e-6])
@pytest.mark.parametrize("kernel", BOUNDED)
def test_no_draw_leaves_the_prior(kernel, length, dtype):
    """At any outputs of the encoder, with the largest and least draws; the KL stays finite, and so do gradients."""
    outputs = torch.tensor([-math.inf, -1e30, -50, -1, 0, 0.3, 9, 20, 1e4, math.inf], dtype=dtype)
    images = torch.cartesian_prod(outputs, outputs).reshape(-1, 1, 1, 2).requires_grad_()
    network = encoder(kernel, UniformPrior(2, length)).to(dtype)
    q, prior = network(images.nan_to_num()), network.prior()
    base, half = coordinates(q), length / 2
    low, high = coordinates(prior).low, coordinates(prior).high
    ends = torch.cat([base.loc + base.scale * t for t in (-1.0, 1.0)])  # as rsample rounds
    assert (ends >= low).all()
    assert (ends <= high).all()
    assert (base.scale >= 0.99e-8 * half).all()
    z = q.rsample((500,))
    assert prior.log_prob(z).isfinite().all()
    divergence = kl_divergence(q, prior)
    assert divergence.isfinite().all()
    (gradient,) = torch.autograd.grad((z.sum() / length + divergence.sum()), images)
    assert gradient.isfinite().all()


def test_in_4096_dimensions():
    network = encoder("epanechnikov", KernelPrior(4096, 2.0, KERNELS["epanechnikov"]))
    q, prior = network(torch.randn(3, 1, 1, 2)), network.prior()
    assert kl_divergence(q, prior).isfinite().all()
    assert prior.log_prob(q.sample()).isfinite().all()


@pytest.mark.parametrize(
    ("kernel", "prior", "dim"),
    [("epanechnikov", "uniform", 1), ("cosine", "uniform", 1), ("epanechnikov", "kernel", 2)],
)
def test_the_bound_holds(kernel, prior, dim):
    """-ELBO ≥ -ln p(x) = -ln ∫ p(x|z) p(z) dz, by quadrature over the support of the prior; the gap is KL(q‖p(z|x))."""
    torch.manual_seed(dim)
    model = BoundedVAE(SHAPE, dim, kernel, prior=prior).double().eval()
    image = torch.rand(1, *SHAPE, dtype=torch.float64)
    nodes = torch.linspace(-1, 1, {1: 401, 2: 61}[dim], dtype=torch.float64)[1:-1]
    z = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    with torch.no_grad():
        log_joint = model.likelihood(z).log_prob(image) + model.prior().log_prob(z)
        log_evidence = torch.logsumexp(log_joint, 0) + dim * math.log(nodes[1] - nodes[0])
        q = model.posterior(image)
        draws = q.sample((1000,)).flatten(0, 1)
        reconstruction = -model.likelihood(draws).log_prob(image)
        error = reconstruction.std() / 1000**0.5
        negative_elbo = reconstruction.mean() + kl_divergence(q, model.prior())
    gap = float(negative_elbo + log_evidence)
    assert gap > -5 * float(error)  # a false alarm: 3e-7
    posterior = (log_joint - log_evidence).exp() * (nodes[1] - nodes[0]) ** dim
    assert posterior.sum().item() == pytest.approx(1)
    log_q = q.log_prob(z)
    weights = log_q.exp() * (nodes[1] - nodes[0]) ** dim
    inside = weights > 0
    exact = (weights[inside] * (log_q[inside] - log_joint[inside] + log_evidence)).sum() / weights.sum()
    assert gap == pytest.approx(exact.item(), abs=0.02 + 5 * float(error))


def test_weight_and_terms():
    model, images = BoundedVAE(SHAPE, 4, weight=0.1).eval(), torch.rand(3, *SHAPE)
    terms = model(images)
    assert torch.allclose(terms.loss, (terms.reconstruction + 0.1 * terms.divergence).mean())
    assert torch.allclose(terms.divergence, kl_divergence(model.posterior(images), model.prior()))
    assert model.objective.divergence_name == "kl"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "gaussian"}, "kernel must be one of uniform, epanechnikov, .*, not 'gaussian'"),
        (
            {"kernel": "cosine", "prior": "kernel"},
            "prior 'kernel' is for the kernels uniform, epanechnikov, biweight, tri",
        ),
        ({"prior": "gaussian"}, "prior must be one of uniform, kernel"),
        ({"support_length": 0}, "support_length must be positive"),
        ({"weight": -1}, "weight must be positive"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        BoundedVAE(SHAPE, **settings)
