"""Importance-weighted bounds on ln p(x), for models whose posterior and prior have densities."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.console import warn
from evae.data import ImageSet, to_float
from evae.errors import ConfigError
from evae.models import VAE
from evae.runs.images import BATCH, batches

_AT_ONCE = 2**19  # numbers of latents evaluated in one go: a kernel posterior's density takes 64 nodes for each


@torch.no_grad()
def bound_likelihood(model: VAE, images: ImageSet, samples: int) -> dict[str, float]:
    """The importance-weighted bound on ln p(x): mean over images, its standard error, and both per dimension.

    For a prior whose support the posterior leaves there is no such bound; the share of samples that do is returned.
    For a posterior without a density there is none either, and nothing is returned; a warning says so.

    Raises:
        ConfigError: ``samples`` is not positive.
    """
    if samples < 1:
        raise ConfigError(f"likelihood must be at least 1 sample, not {samples}")
    device = model.device
    few = to_float(images.images[:BATCH], device)
    if (outside := share_outside(model, model.posterior(few), samples=10)) > 0:
        warn(
            f"no likelihood: the posterior leaves the prior's support ({outside:.1%} of its samples do), where "
            "ln p(z) is minus infinity; a model with a Gaussian prior has one"
        )
        return {"share_outside": outside}
    try:
        bounds = [importance_weighted_bound(model, b, samples) for b in batches(images, device, "likelihood")]
    except NotImplementedError as reason:
        warn(f"no likelihood: {reason}")
        return {}
    per_image = torch.cat(bounds).cpu()
    mean, error = per_image.mean().item(), per_image.std().item() / len(per_image) ** 0.5
    dimensions = math.prod(model.image_shape)
    return {
        "samples": samples,
        "bound": mean,
        "standard_error": error,
        "bound_per_dimension": mean / dimensions,
        "standard_error_per_dimension": error / dimensions,
    }


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


def share_outside(model: VAE, q: Distribution, samples: int) -> float:
    """The share of samples of the posteriors ``q`` that lie outside the prior's support, where ln p(z) is -∞."""
    z = q.sample((samples,))
    inside: Tensor = model.prior().support.check(z)
    return 1 - inside.double().mean().item()
