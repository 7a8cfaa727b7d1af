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

    Where the posterior leaves the prior's support there is no such bound: the fraction of its samples that do is
    returned. For a posterior without a density there is none either. A warning says so.
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
    per_image = torch.cat(bounds)
    bound = mean_of(_NAME, per_image, "higher")
    per_dimension = mean_of("bound_per_dimension", per_image / math.prod(model.image_shape))
    return Measured(
        [bound],
        settings={"samples": samples},
        details={
            "bound_per_dimension": per_dimension.value,
            "standard_error_per_dimension": per_dimension.error,
        },
        per_image={_NAME: per_image},
    )


LIKELIHOOD = Measurement("likelihood", _measure, lambda o: None if o.likelihood is None else {"samples": o.likelihood})


def importance_weighted_bound(model: VAE, images: Tensor, samples: int, q: Distribution | None = None) -> Tensor:
    r"""ln (1/k) Σ_j p(x|z_j) p(z_j) / q(z_j|x), z_j drawn from q(z|x) (Burda, Grosse and Salakhutdinov 2016).

    In expectation a lower bound on ln p(x) that increases to it with k; with k = 1 it is the ELBO's integrand.

    Args:
        model: its posterior's support must lie inside its prior's, see ``share_outside``.
        images: (N, C, H, W).
        samples: k.
        q: the images' posteriors; default: encode them.

    Returns:
        The bound of each image in nats, shape (N,), in double precision on the CPU.
    """
    q, prior = q or model.posterior(images), model.prior()
    step = max(1, _MAX_LATENTS // (64 * len(images) * q.event_shape[0]))
    log_weights = [_log_weights(model, q, prior, images, min(step, samples - done)) for done in range(0, samples, step)]
    return torch.logsumexp(torch.cat(log_weights), 0) - math.log(samples)


def _log_weights(model: VAE, q: Distribution, prior: Distribution, images: Tensor, count: int) -> Tensor:
    z = q.sample((count,))  # (count, N, d)
    p = model.likelihood(z.flatten(0, 1))
    log_likelihood = p.log_prob(images.repeat(count, *[1] * (images.ndim - 1))).view(count, len(images))
    return (log_likelihood + prior.log_prob(z) - q.log_prob(z)).cpu().double()


def share_outside(model: VAE, q: Distribution, samples: int) -> float:
    """The fraction of samples of the posteriors ``q`` that lie outside the prior's support, where ln p(z) is -∞."""
    z = q.sample((samples,))
    inside: Tensor = model.prior().support.check(z)
    return 1 - inside.cpu().double().mean().item()
