"""A linear-Gaussian model, whose ln p(x) is known."""

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from evae import EVAE, VAE
from evae.models import Elbo
from evae.models.encoders import KernelEncoder
from evae.models.priors import NormalPrior

SHAPE = (1, 2, 2)
NOISE = 0.5


class LinearPixels(nn.Module):
    """x = map + noise."""

    def forward(self, maps):
        return Independent(Normal(maps, NOISE), 3)


class ExactEncoder(nn.Module):
    """The posterior of a linear-Gaussian model, a little too wide and off its centre."""

    def __init__(self, weight, prior):
        super().__init__()
        self.weight, self.prior = weight, prior

    def forward(self, images):
        precision = self.weight.T @ self.weight / NOISE**2 + torch.eye(2) / self.prior().stddev[0] ** 2
        covariance = torch.linalg.inv(precision)
        mean = images.flatten(1) @ self.weight / NOISE**2 @ covariance
        return Independent(Normal(mean + 0.1, 1.2 * covariance.diagonal().sqrt().expand_as(mean)), 1)


def linear_model(kernel_posterior):
    """A model with ln p(x) = ln N(x; 0, σ² W Wᵀ + s² I)."""
    weight = torch.tensor([[0.7, 0.1], [-0.3, 0.5], [0.2, 0.2], [0.0, -0.6]], dtype=torch.float64)
    decoder = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Unflatten(1, SHAPE)).double()
    decoder[0].weight.data = weight
    prior = NormalPrior(2, 0.4).double()
    if kernel_posterior:
        kernel = EVAE((1, 16, 16)).encoder.kernel
        encoder = KernelEncoder(nn.Flatten(), SHAPE, 2, kernel, prior, 0.5).double()
        nn.init.zeros_(encoder.loc.weight)
    else:
        encoder = ExactEncoder(weight, prior)
    model = VAE(SHAPE, encoder, prior, decoder, LinearPixels(), Elbo())
    covariance = 0.4**2 * weight @ weight.T + NOISE**2 * torch.eye(4)
    return model, MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)
