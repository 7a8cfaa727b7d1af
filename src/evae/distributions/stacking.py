"""The per-image parameters of a batch of posteriors: taken out, put back, selected, widened."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Uniform

from evae.distributions.ball import SphericalEpanechnikov, SphericalPosterior
from evae.distributions.hypersphere import PowerSpherical, VonMisesFisher
from evae.distributions.kernel import Kernel
from evae.distributions.point import PointMass
from evae.distributions.posterior import KernelPosterior, SmoothedPrior, coordinates
from evae.distributions.student import MultivariateStudentT

_Vector = SphericalPosterior | VonMisesFisher | PowerSpherical | PointMass | MultivariateStudentT
_Posterior = Normal | Kernel | KernelPosterior | _Vector


def parameters_of(q: Distribution) -> dict[str, Tensor]:
    """What differs between the N posteriors of a batch, tensors whose first axis is N.

    They are ``loc`` and ``scale`` of normals, kernels and kernel posteriors, each (N, d), the last before the bandwidth
    is applied, and of Student's t; ``loc`` (N, d) and ``concentration`` (N,) on the sphere; ``loc`` (N, d) of point
    masses. A kernel posterior's bandwidth and prior belong to the model, and so do degrees of freedom.

    Args:
        q: a posterior of evae's encoders, batch shape (N,), event shape (d,).

    Raises:
        TypeError: ``q`` is of another kind.
        ValueError: the batch shape is not (N,), or bandwidth or prior differ between images.
    """
    base = _base(q)
    if isinstance(base, KernelPosterior | SphericalPosterior):
        _shared(base)
        return {"loc": base.kernel.loc, "scale": base.kernel.scale}
    if isinstance(base, MultivariateStudentT):
        return {"loc": base.loc, "scale": base.scale}
    names = ("loc",) if isinstance(base, PointMass) else tuple(base.arg_constraints)
    return {name: getattr(base, name) for name in names}


def with_parameters(like: Distribution, tensors: Mapping[str, Tensor]) -> Distribution:
    """Posteriors of the kind of ``like`` with these per-image parameters, and its bandwidth and prior.

    Their values are not validated: they are those of a posterior that exists.

    Args:
        like: a posterior of evae's encoders, of any batch size but 0.
        tensors: as ``parameters_of`` returns them.

    Raises:
        TypeError: ``like`` is of another kind.
        ValueError: the names of the tensors or their d are not those of ``like``.
    """
    base = _base(like)
    _check_tensors(like, tensors)
    if isinstance(base, SmoothedPrior):
        return _smoothed(base, tensors, *_shared(base))
    if isinstance(base, MultivariateStudentT):
        return MultivariateStudentT(base.df, tensors["loc"], tensors["scale"], validate_args=False)
    posterior = type(base)(**tensors, validate_args=False)
    return _as_vectors(posterior) if isinstance(base, Normal | Kernel) else posterior


def select(q: Distribution, rows: Tensor | slice) -> Distribution:
    """The posteriors of some images, in the order of ``rows``: indices, a slice or a mask."""
    return with_parameters(q, {name: tensor[rows] for name, tensor in parameters_of(q).items()})


def widened(q: Distribution, factor: float) -> Distribution:
    """Posteriors with the same centres c, ``factor`` times as wide: where they are vectors, the law of c + h·(Z - c).

    The scale of a normal, a kernel or a Student's t is multiplied by h; so are a kernel's scale and the spread of its
    prior about its mean. On the sphere the concentration is divided by h², which for large concentrations multiplies
    angles by h.

    Raises:
        NotImplementedError: the posterior has no density.
        TypeError: ``q`` is of another kind.
        ValueError: ``factor`` is not positive and finite.
    """
    base = _base(q)
    if isinstance(base, PointMass | SphericalPosterior):
        raise NotImplementedError(f"a {type(base).__name__} has no density")
    if not 0 < factor < float("inf"):
        raise ValueError(f"the factor of a posterior's width must be positive and finite, not {factor}")
    tensors = parameters_of(q)
    if isinstance(base, KernelPosterior):
        bandwidth, prior = _shared(base)
        tensors["scale"] = factor * tensors["scale"]
        return _smoothed(base, tensors, bandwidth, _widened_prior(prior, factor))
    if isinstance(base, Normal | Kernel | MultivariateStudentT):
        return with_parameters(q, {**tensors, "scale": factor * tensors["scale"]})
    return with_parameters(q, {**tensors, "concentration": tensors["concentration"] / factor**2})


def detached(q: Distribution) -> Distribution:
    """The same posteriors, without gradients to their parameters or to the model's."""
    base = _base(q)
    tensors = {name: x.detach() for name, x in parameters_of(q).items()}
    if not isinstance(base, SmoothedPrior):
        return with_parameters(q, tensors)
    bandwidth, prior = _shared(base)
    if isinstance(prior, Uniform):
        prior = Uniform(prior.low.detach(), prior.high.detach(), validate_args=False)
    else:
        prior = Normal(prior.loc.detach(), prior.scale.detach(), validate_args=False)
    return _smoothed(base, tensors, bandwidth.detach(), prior)


def _base(q: Distribution) -> _Posterior:
    """The posterior itself, or that of its coordinates, once it is known to be one of evae's."""
    base = coordinates(q)
    if isinstance(q, Independent):
        known = isinstance(base, Normal | Kernel | KernelPosterior) and q.reinterpreted_batch_ndims == 1
    else:
        known = isinstance(base, _Vector)
    if not known:
        raise TypeError(f"not a posterior of evae's encoders: {q}")
    if len(q.batch_shape) != 1:
        raise ValueError(f"posteriors must have batch shape (N,), not {tuple(q.batch_shape)}")
    return base  # type: ignore[return-value]


def _check_tensors(like: Distribution, tensors: Mapping[str, Tensor]) -> None:
    names = set(parameters_of(like))
    if set(tensors) != names:
        raise ValueError(f"a posterior's parameters must be {sorted(names)}, not {sorted(tensors)}")
    shape = tensors["loc"].shape
    if len(shape) != 2 or shape[1] != like.event_shape[0]:
        raise ValueError(f"loc must have shape (N, {like.event_shape[0]}), not {tuple(shape)}")


def _smoothed(
    base: SmoothedPrior, tensors: Mapping[str, Tensor], bandwidth: Tensor, prior: Uniform | Normal
) -> Distribution:
    make: Callable[..., Kernel | SphericalEpanechnikov] = type(base.kernel)  # type: ignore[assignment]
    kernel = make(**tensors, validate_args=False)
    if isinstance(kernel, SphericalEpanechnikov):
        return SphericalPosterior(kernel, _as_vectors(prior), bandwidth, validate_args=False)
    return _as_vectors(KernelPosterior(kernel, prior, bandwidth, validate_args=False))


def _as_vectors(base: Distribution) -> Independent[Distribution]:
    return Independent(base, 1, validate_args=False)


def _shared(base: SmoothedPrior) -> tuple[Tensor, Uniform | Normal]:
    """Bandwidth and prior of a coordinate that all images share, each of batch shape (1, d)."""
    prior = coordinates(base.prior)
    bandwidth = _first_row("bandwidth", base.bandwidth)
    if isinstance(prior, Uniform):
        low, high = _first_row("prior's low", prior.low), _first_row("prior's high", prior.high)
        return bandwidth, Uniform(low, high, validate_args=False)
    assert isinstance(prior, Normal)
    loc, scale = _first_row("prior's loc", prior.loc), _first_row("prior's scale", prior.scale)
    return bandwidth, Normal(loc, scale, validate_args=False)


def _first_row(name: str, x: Tensor) -> Tensor:
    if not len(x):
        raise ValueError("an empty batch of kernel posteriors does not tell their bandwidth and prior")
    if x.stride(0) and not torch.equal(x, x[:1].expand_as(x)):
        raise ValueError(f"the {name} of kernel posteriors must be the same for all images")
    return x[:1]


def _widened_prior(prior: Uniform | Normal, factor: float) -> Uniform | Normal:
    if isinstance(prior, Normal):
        return Normal(prior.loc, factor * prior.scale, validate_args=False)
    half = factor * (prior.high - prior.low) / 2
    return Uniform(prior.mean - half, prior.mean + half, validate_args=False)
