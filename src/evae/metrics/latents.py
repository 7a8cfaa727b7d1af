"""What a model does with its latents: which of them it uses, how wide posteriors are, how far they leave the prior."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from evae.data import ImageSet
from evae.distributions import KernelPosterior, PowerSpherical, SphericalPosterior, VonMisesFisher
from evae.metrics.likelihood import share_outside
from evae.models import VAE
from evae.runs.images import batches

_ACTIVE = 0.01
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@torch.no_grad()
def describe_latents(model: VAE, images: ImageSet) -> dict[str, Any]:
    """Active units, rate per dimension, quantiles of the posterior's spread, and the share of it outside the prior.

    A unit is active where the variance over images of the posterior's centre is above 0.01 of the prior's variance
    (Burda, Grosse and Salakhutdinov 2016, whose prior has variance 1). ``rate_per_dimension`` is the mean of the KL or
    the penalty of each latent, where the divergence is a sum over latents; ``spread`` names what the quantiles are of.
    """
    device = model.device
    centres, rates, spreads, outside = [], [], [], []
    name = None
    for batch in batches(images, device, "latents"):
        q = model.posterior(batch)
        centres.append(model.centre(q).cpu())
        if (rate := model.objective.per_dimension(model, q)) is not None:
            rates.append(rate.cpu().double())
        name, spread = posterior_spread(q)
        if spread is not None:
            spreads.append(spread.cpu().flatten())
        outside.append(share_outside(model, q, 10) * len(batch))
    activity = torch.cat(centres).double().var(0)
    described: dict[str, Any] = {
        "active_units": int((activity > _ACTIVE * model.prior().variance.cpu()).sum()),
        "latent_dim": activity.numel(),
        "share_outside": sum(outside) / len(images),
    }
    if rates:
        described["rate_per_dimension"] = torch.cat(rates).mean(0).tolist()
    if spreads:
        values = torch.cat(spreads).double().numpy()
        quantiles = dict(zip(map(str, _QUANTILES), _numpy_quantiles(values), strict=True))
        described |= {"spread": name, "spread_quantiles": quantiles}
    return described


def posterior_spread(q: Distribution) -> tuple[str | None, Tensor | None]:
    """Name and values of what says how wide a posterior is: r, a standard deviation or a concentration."""
    base = q.base_dist if isinstance(q, Independent) else q
    if isinstance(base, KernelPosterior | SphericalPosterior):
        return "r", base.kernel.scale
    if isinstance(base, Normal):
        return "standard deviation", base.scale
    if isinstance(base, VonMisesFisher | PowerSpherical):
        return "concentration", base.concentration
    return None, None


def _numpy_quantiles(values: Any) -> list[float]:
    import numpy as np  # torch.quantile takes 16 million numbers at most

    return np.quantile(values, _QUANTILES).tolist()
