"""Importance-weighted bounds on ln p(x), for models whose posterior and prior have densities."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.models import VAE

_AT_ONCE = 2**19  # numbers of latents evaluated in one go: a kernel posterior's density takes 64 nodes for each


def importance_weighted_bound(model: VAE, images: Tensor, samples: int) -> Tensor:
    r"""ln (1/k) Σ_j p(x|z_j) p(z_j) / q(z_j|x), z_j drawn from q(z|x) (Burda, Grosse and Salakhutdinov 2016).

    In expectation a lower bound on ln p(x), which it rises to as k grows; with k = 1 it is the ELBO's integrand.

    Args:
        model: its posterior's support must lie inside its prior's, see ``share_outside``.
        images: (N, C, H, W).
        samples: k.

    Returns:
        The bound of each image in nats, shape (N,).
    """
    q, prior = model.posterior(images), model.prior()
    step = max(1, _AT_ONCE // (64 * len(images) * q.event_shape[0]))
    log_weights = [_log_weights(model, q, prior, images, min(step, samples - done)) for done in range(0, samples, step)]
    return torch.logsumexp(torch.cat(log_weights), 0) - math.log(samples)


def _log_weights(model: VAE, q: Distribution, prior: Distribution, images: Tensor, count: int) -> Tensor:
    z = q.sample((count,))  # (count, N, d)
    p = model.likelihood(z.flatten(0, 1))
    log_likelihood = p.log_prob(images.repeat(count, *[1] * (images.ndim - 1))).view(count, len(images))
    return (log_likelihood + prior.log_prob(z) - q.log_prob(z)).double()


def share_outside(model: VAE, images: Tensor, samples: int) -> float:
    """The share of posterior samples that lie outside the prior's support, where ln p(z) is -∞."""
    z = model.posterior(images).sample((samples,))
    inside: Tensor = model.prior().support.check(z)
    return 1 - inside.double().mean().item()
