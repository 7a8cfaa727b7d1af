"""Fit each kind of prior to codes; all but the aggregated posterior see nothing but the codes."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evae.console import progress, warn
from evae.distributions import AggregatedPosterior, parameters_of, select
from evae.errors import ConfigError
from evae.fitting.codes import Codes, chunks
from evae.fitting.networks import Fit, optimise
from evae.fitting.settings import Choice, Density
from evae.models import VAE
from evae.models.fitted import FittedPrior, Kind, make_flow
from evae.models.second_stage import SecondStage

_MAX_CODES = 200_000  # to fit a mixture to: more do not change it, and take gigabytes
_COMPONENTS = 10
_RIDGE = 1e-6  # added to the variances of a covariance, relative to their mean, so that it is never singular
_BACKGROUND = 0.01  # of a kde
_FACTORS = [2 ** (k / 2) for k in range(-2, 32)]  # on its width
_SCORED = 200  # held-out codes by which the width is chosen


def fit(kind: Kind, codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """A prior of this kind, fitted to the codes' ``fitted`` rows; the held-out ones choose widths and epochs.

    Raises:
        ConfigError: the posteriors have no density (kde), zuko is missing (flow), or there are too few codes (gmm).
    """
    fitted = _FITS[kind](codes, density, device)
    centre = {} if codes.centre is None else {"centre": codes.centre}
    tensors = fitted.tensors if kind == "kde" else fitted.tensors | centre
    return FittedPrior(kind, tensors, fitted.settings)


def check_fittable(kind: Choice, model: VAE) -> None:
    """Raise ConfigError where no prior of this kind can be fitted to any codes of the model."""
    if kind == "kde":
        try:
            AggregatedPosterior(model.example_posterior())
        except NotImplementedError as error:
            raise ConfigError(
                f"a kde needs posteriors with a density, and those of this {type(model).__name__} have none "
                f"({error}); take --kind gmm"
            ) from error
    if kind == "flow":
        make_flow(model.prior().event_shape[0])


def _gaussian(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """N(m, S) with the mean and the covariance of the codes: the maximum of the likelihood, but for the ridge."""
    count, total, outer = 0, torch.zeros(codes.dim).double(), torch.zeros(codes.dim, codes.dim).double()
    origin = codes.drawn(chunks(codes.fitted)[0]).double().mean(0)  # sums about it do not cancel
    for part in chunks(codes.fitted):
        y = codes.drawn(part, draw=part.start).double() - origin
        count, total, outer = count + len(y), total + y.sum(0), outer + y.T @ y
    covariance = outer / count - torch.outer(total, total) / count**2
    covariance.diagonal().add_(_ridge(covariance.diagonal()))
    return FittedPrior("gaussian", {"mean": origin + total / count, "scale_tril": torch.linalg.cholesky(covariance)})


def _gmm(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """A mixture of Gaussians with full covariances by scikit-learn's expectation maximisation, from k-means."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    count = codes.fitted.stop - codes.fitted.start
    most = count // 2
    components = density.components or max(1, min(_COMPONENTS, most))
    if components > most and components > 1:
        raise ConfigError(
            f"a mixture of {components} components needs at least {2 * components} training images besides the "
            f"held-out ones, not {count}; lower --components, or take --kind gaussian"
        )
    y = codes.drawn(slice(codes.fitted.start, min(codes.fitted.start + _MAX_CODES, codes.fitted.stop))).double()
    mixture = GaussianMixture(
        components,
        max_iter=density.iterations,
        reg_covar=_ridge(y.var(0)),
        random_state=codes.seed % 2**32,
    )
    with warnings.catch_warnings(), progress() as bar:
        warnings.simplefilter("ignore", ConvergenceWarning)
        bar.add_task(f"fitting {components} components", total=None)
        mixture.fit(y.numpy())
    if not mixture.converged_:
        warn(f"the mixture has not converged after {density.iterations} iterations; raise --iterations")
    found = {"weights": mixture.weights_, "means": mixture.means_}
    tensors = {name: torch.from_numpy(values) for name, values in found.items()}
    tensors["scale_trils"] = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_))
    return FittedPrior("gmm", tensors, {"components": components})


def _ridge(variances: Tensor) -> float:
    return max(_RIDGE * variances.mean().item(), 1e-12)


def _kde(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """The aggregated posterior, all widths multiplied by the factor with the highest held-out log-density.

    Factors rise from 1/2 in steps of √2 until the log-density falls: wider posteriors take longer to evaluate. Of
    vectors the prior is one per cent a Gaussian with the codes' mean and covariance: far from all others a code has no
    density under posteriors of bounded support, and a factor that reached the farthest code would be too large for the
    rest.
    """
    check_fittable("kde", codes.model)
    posterior = select(codes.posterior, codes.fitted)
    on_sphere = codes.centre is not None
    tensors = parameters_of(posterior) | ({} if on_sphere else _gaussian(codes, density, device).tensors)
    settings = {"factor": 1.0} if on_sphere else {"factor": 1.0, "background": _BACKGROUND}
    scored = codes.drawn_codes(slice(0, min(_SCORED, codes.held_out.stop)))
    best = -math.inf
    with progress("{task.fields[best]}") as bar:
        task = bar.add_task("choosing the width of the kde", total=None, best="")
        for factor in _FACTORS:
            prior = FittedPrior("kde", tensors, settings | {"factor": factor})
            distribution = prior.distribution(lambda: codes.posterior, scored)
            score = distribution.log_prob(scored).double().mean().item()
            bar.update(task, advance=1, best=f"x {factor:.3g}: {score:.4g}")
            if score < best:
                break
            best, settings["factor"] = score, factor
    return FittedPrior("kde", tensors, settings)


def _flow(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """A normalizing flow of the standardised codes, by maximum likelihood."""
    settings: dict[str, Any] = {
        "dim": codes.dim,
        "flow": density.flow,
        "transforms": density.transforms,
        "depth": density.depth or 2,
        "width": density.width or 128,
    }
    make = partial(make_flow, **settings)
    return FittedPrior("flow", _trained(codes, density, device, "flow", make, lambda f, y: -f().log_prob(y)), settings)


def _second_stage(codes: Codes, density: Density, device: torch.device) -> FittedPrior:
    """A VAE of the standardised codes, which are drawn anew from the posteriors in each epoch."""
    settings = {"dim": codes.dim, "depth": density.depth or 3, "width": density.width or 512}
    make = partial(SecondStage, **settings)
    loss: Callable[..., Tensor] = SecondStage.negative_elbo
    return FittedPrior("vae", _trained(codes, density, device, "second stage", make, loss), settings)


def _trained(
    codes: Codes,
    density: Density,
    device: torch.device,
    title: str,
    make: Callable[[], torch.nn.Module],
    loss: Callable[..., Tensor],
) -> dict[str, Tensor]:
    """The state of a network trained on standardised codes, and the ``shift`` and ``scale`` of these."""
    y = codes.drawn(codes.fitted)
    shift, scale = y.mean(0), y.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)

    def standardised(rows: slice, draw: int) -> Tensor:
        return ((codes.drawn(rows, draw) - shift) / scale).to(device)

    state = optimise(
        Fit(make, loss, title),
        fitted=lambda epoch: standardised(codes.fitted, epoch),
        held_out=standardised(codes.held_out, 0),
        density=density,
        seed=codes.seed,
    )
    return state | {"shift": shift, "scale": scale}


_FITS: dict[Kind, Callable[[Codes, Density, torch.device], FittedPrior]] = {
    "gaussian": _gaussian,
    "gmm": _gmm,
    "kde": _kde,
    "flow": _flow,
    "vae": _second_stage,
}
