"""The use of the latents: active units, rates, the posteriors' spread, and their fraction outside of the prior."""

from typing import Any

import numpy as np
import torch

from evae.distributions import posterior_spread
from evae.metrics.likelihood import share_of_coordinates_outside, share_outside
from evae.metrics.sections import Context, Measured, Measurement, Options
from evae.runs.evaluation import Number

_ACTIVE = 0.01
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def _measure(context: Context, _: Options) -> Measured:
    """Active units, rate per dimension, quantiles of the posterior's spread, and its fraction outside the prior.

    A unit is active where the variance over images of the posterior's code is above 0.01 of the prior's variance
    (Burda, Grosse and Salakhutdinov 2016, whose prior has variance 1). ``rate_per_dimension`` is the mean of the KL or
    the penalty of each latent, where the divergence is a sum over latents; ``spread`` names what the quantiles are of.
    """
    model = context.model
    codes, rates, spreads = [], [], []
    shares = {"share_outside": share_outside, "share_of_coordinates_outside": share_of_coordinates_outside}
    outside = dict.fromkeys(shares, 0.0)
    for images, q in context.batches("latents"):
        codes.append(model.code(q).cpu())
        if (rate := model.objective.per_dimension(model, q)) is not None:
            rates.append(rate.cpu().double())
        spread_name, spread = posterior_spread(q)
        if spread is not None:
            spreads.append(spread.cpu().flatten())
        for name, share in shares.items():
            outside[name] += share(model.prior(), q, 10) * len(images) / len(context.store.holdout)
    activity = torch.cat(codes).double().var(0)
    active = float((activity > _ACTIVE * model.prior().variance.cpu()).sum())
    details: dict[str, Any] = {"latent_dim": activity.numel()}
    if rates:
        details["rate_per_dimension"] = torch.cat(rates).mean(0).tolist()
    if spreads:  # by numpy: torch.quantile takes 16 million numbers at most
        quantiles = np.quantile(torch.cat(spreads).double().numpy(), _QUANTILES).tolist()
        details |= {"spread": spread_name, "spread_quantiles": dict(zip(map(str, _QUANTILES), quantiles, strict=True))}
    numbers = [Number("active_units", active), *(Number(name, value) for name, value in outside.items())]
    return Measured(numbers, details=details)


LATENTS = Measurement("latents", _measure)
