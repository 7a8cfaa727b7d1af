"""Importance-weighted bounds on ln p(x), for models whose posterior and prior have densities."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.console import warn
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE

_NAME = "ln p(x) ≥"
_MAX_LATENTS = 2**19  # evaluated at once: a kernel posterior's density takes 64 nodes for each


def _measure(context: Context, options: Options) -> Measured:
    """The importance-weighted bound on ln p(x), mean over images, in nats; also per dimension of an image.

    Without a bound there is a warning: the posterior has no density, or leaves the prior's support.
    """
    model, samples = context.model, options.likelihood or 1
    bounds: list[Tensor] = []
    try:
        for images, q in context.batches("likelihood"):
            if not bounds and (outside := share_outside(model, q, samples=10)) > 0:
                warn(
                    f"no likelihood: the posterior leaves the prior's support ({outside:.1%} of its samples do), where "
                    "ln p(z) is minus infinity; a model with a Gaussian prior has one"
                )
                return Measured(details={"share_outside": outside})
            bounds.append(importance_weighted_bound(model, images, samples, q))
    except NotImplementedError as reason:
        warn(f"no likelihood: {reason}")
        return Measured()
    bound = torch.cat(bounds)
    per_dimension = mean_of("bound_per_dimension", bound / math.prod(model.image_shape))
    details = {"bound_per_dimension": per_dimension.value, "standard_error_per_dimension": per_dimension.error}
    return Measured([mean_of(_NAME, bound, "higher")], {"samples": samples}, details, {_NAME: bound})


LIKELIHOOD = Measurement("likelihood", _measure, lambda o: None if o.likelihood is None else {"samples": o.likelihood})


def importance_weighted_bound(model: VAE, images: Tensor, samples: int, q: Distribution | None = None) -> Tensor:
    r"""ln (1/k) Σ_j p(x|z_j) p(z_j) / q(z_j|x), z_j drawn from q(z|x) (Burda, Grosse and Salakhutdinov 2016).

    In expectation a lower bound on ln p(x) that increases to it with k = ``samples``; with k = 1 it is the ELBO's
    integrand. Of images (N, C, H, W), whose posteriors ``q`` are encoded by default and must lie inside the prior's
    support, see ``share_outside``; nats, shape (N,), in double precision on the CPU.
    """
    q, prior = q or model.posterior(images), model.prior()
    step = max(1, _MAX_LATENTS // (64 * len(images) * q.event_shape[0]))
    log_weights = []
    for done in range(0, samples, step):
        z = q.sample((min(step, samples - done),))  # (count, N, d)
        p = model.likelihood(z.flatten(0, 1))
        log_likelihood = p.log_prob(images.repeat(len(z), *[1] * (images.ndim - 1))).view(len(z), len(images))
        log_weights.append((log_likelihood + prior.log_prob(z) - q.log_prob(z)).cpu().double())
    return torch.logsumexp(torch.cat(log_weights), 0) - math.log(samples)


def share_outside(model: VAE, q: Distribution, samples: int) -> float:
    """The fraction of samples of the posteriors ``q`` that lie outside the prior's support, where ln p(z) is -∞."""
    z = q.sample((samples,))
    inside: Tensor = model.prior().support.check(z)
    return 1 - inside.cpu().double().mean().item()
