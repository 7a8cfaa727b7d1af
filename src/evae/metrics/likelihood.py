"""Importance-weighted bounds on ln p(x), and rates under a fitted prior, for posteriors and priors with densities."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.console import warn
from evae.distributions import coordinates
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.models.vae import Prior

_NAMES: dict[Prior, str] = {"model": "ln p(x) ≥", "fitted": "ln p(x) ≥, fitted prior"}
RATE = "rate, fitted prior"
_MAX_LATENTS = 2**19  # evaluated at once: a kernel posterior's density takes 64 nodes for each


def _measure(context: Context, options: Options, prior: Prior) -> Measured:
    """The importance-weighted bound on ln p(x) under a prior, mean over images, in nats; also per dimension.

    Of rows it is that of standardised values; the density of the data's own is smaller by the sum of the logarithms of
    the columns' deviations, "bound_in_units_of_data".

    Under a fitted prior p also the rate E_q[ln q(z|x) - ln p(z)], which objectives know for the model's own prior; each
    is an upper bound on the mutual information of x and z (Alemi et al., ICML 2018). Without a bound there is a
    warning: a density is missing, or the posteriors leave the prior's support.
    """
    model, samples, name = context.model, options.likelihood or 1, _NAMES[prior]
    p = model.prior() if prior == "model" else model.fitted_prior
    assert p is not None  # as Measurement.asked says
    try:
        bound, rate, outside = _bounds(context, samples, p)
    except NotImplementedError as reason:
        warn(f"no likelihood under the {prior} prior: {reason}")
        return Measured()
    if outside:
        warn(
            f"no likelihood under the {prior} prior: the posterior leaves its support ({outside:.1%} of its "
            f"samples do), where ln p(z) is minus infinity; {_ADVICE[prior]}"
        )
        return Measured(details={"share_outside": outside})
    per_dimension = mean_of("", bound / math.prod(model.image_shape))
    details = {"bound_per_dimension": per_dimension.value, "standard_error_per_dimension": per_dimension.error}
    if context.store.columns is not None:  # of the data's own density, whose unit is that of its columns
        logarithms = sum(map(math.log, context.store.columns.deviation))
        details["bound_in_units_of_data"] = bound.mean().item() - logarithms
    per_image, numbers = {name: bound}, [mean_of(name, bound, "higher")]
    if prior == "fitted":
        per_image[RATE], numbers = rate, [*numbers, mean_of(RATE, rate)]
    return Measured(numbers, {"samples": samples}, details, per_image)


def _bounds(context: Context, samples: int, p: Distribution) -> tuple[Tensor, Tensor, float]:
    """Bound and rate of each image, and the fraction of posterior samples outside the prior's support: then neither."""
    bounds: list[Tensor] = []
    rates: list[Tensor] = []
    for images, q in context.batches("likelihood"):
        if not bounds and (outside := share_outside(p, q, samples=10)):
            return torch.empty(0), torch.empty(0), outside
        log_likelihood, log_ratio = _log_weights(context.model, images, samples, q, p)
        bounds.append(_log_mean(log_likelihood + log_ratio))
        rates.append(-log_ratio.mean(0))
    bound = torch.cat(bounds)
    return bound, torch.cat(rates), (bound == -math.inf).double().mean().item()


_ADVICE: dict[Prior, str] = {
    "model": "evae fit-prior RUN fits a prior under which there is a bound",
    "fitted": "evae fit-prior RUN --kind gmm fits one with a wider support",
}


def _depends_on(options: Options) -> dict[str, Any] | None:
    return None if options.likelihood is None else {"samples": options.likelihood}


LIKELIHOOD = Measurement("likelihood", partial(_measure, prior="model"), _depends_on)
FITTED_LIKELIHOOD = Measurement("likelihood, fitted prior", partial(_measure, prior="fitted"), _depends_on, True)


def importance_weighted_bound(
    model: VAE, images: Tensor, samples: int, q: Distribution | None = None, prior: Distribution | None = None
) -> Tensor:
    r"""ln (1/k) Σ_j p(x|z_j) p(z_j) / q(z_j|x), z_j drawn from q(z|x) (Burda, Grosse and Salakhutdinov 2016).

    In expectation a lower bound on ln p(x) that increases to it with k = ``samples``; with k = 1 it is the ELBO's
    integrand. Of images (N, C, H, W), whose posteriors ``q`` are encoded by default and must lie inside the support of
    ``prior``, by default the model's own, see ``share_outside``; nats, shape (N,), in double precision on the CPU.
    """
    q, prior = q or model.posterior(images), prior or model.prior()
    log_likelihood, log_ratio = _log_weights(model, images, samples, q, prior)
    return _log_mean(log_likelihood + log_ratio)


def _log_weights(
    model: VAE, images: Tensor, samples: int, q: Distribution, prior: Distribution
) -> tuple[Tensor, Tensor]:
    """ln p(x|z_j) and ln p(z_j) - ln q(z_j|x) of draws z_j from q, each (samples, N)."""
    step = max(1, _MAX_LATENTS // (64 * len(images) * q.event_shape[0]))
    log_likelihoods, log_ratios = [], []
    for done in range(0, samples, step):
        z = q.sample((min(step, samples - done),))  # (count, N, d)
        p = model.likelihood(z.flatten(0, 1))
        log_likelihood = p.log_prob(images.repeat(len(z), *[1] * (images.ndim - 1))).view(len(z), len(images))
        log_likelihoods.append(log_likelihood.cpu().double())
        log_ratios.append((prior.log_prob(z) - q.log_prob(z)).cpu().double())
    return torch.cat(log_likelihoods), torch.cat(log_ratios)


def _log_mean(log_weights: Tensor) -> Tensor:
    """ln of the mean over the first dimension."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def share_outside(prior: Distribution, q: Distribution, samples: int) -> float:
    """The fraction of samples of the posteriors ``q`` that lie outside the prior's support, where ln p(z) is -∞."""
    return _share_outside(prior, q.sample((samples,)))


def share_of_coordinates_outside(prior: Distribution, q: Distribution, samples: int) -> float:
    """The fraction of their coordinates, where the prior's are independent; else the same as ``share_outside``."""
    return _share_outside(coordinates(prior), q.sample((samples,)))


def _share_outside(prior: Distribution, values: Tensor) -> float:
    support = prior.support
    assert support is not None  # torch leaves it open for distributions that have none
    inside: Tensor = support.check(values)
    return 1 - inside.cpu().double().mean().item()
