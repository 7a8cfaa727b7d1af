"""Divergences between posterior and prior: a *penalty* is a surrogate, a *KL* is exact, a *bound* is a proven bound.

Importing this module registers exact KL divergences with ``torch.distributions.kl_divergence``:
KernelPosterior or Kernel against Normal or Uniform, and the uniform, Gaussian and Laplace kernels against their like.
They are computed in float64 (where the device has it), are never negative, and have the type of their arguments.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Uniform
from torch.distributions.kl import register_kl

from evae.distributions.ball import SphericalEpanechnikov
from evae.distributions.entropy import negentropy
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel, LaplaceKernel, UniformKernel
from evae.distributions.posterior import KernelPosterior
from evae.distributions.quadrature import double, posterior_panels


def kernel_penalty(
    kernel: Kernel | SphericalEpanechnikov, support_length: Tensor | float = 0.1, n: float = 100
) -> Tensor:
    r"""The asymptotic penalty of a kernel posterior, B · I(K) / n per dimension (arXiv 2405.12783, eq. 8).

    It replaces KL(q‖p) in the paper's objective, but it is a large-sample limit of an upper bound, not a bound:
    at finite bandwidth the support of q exceeds that of a uniform prior and KL(q‖p) is infinite. The centre of
    the kernel does not enter. For the Epanechnikov kernel it is 3B / (5 n r), the term of eq. (10).

    Args:
        kernel: the kernel, batch shape (..., d). Of a ``SphericalEpanechnikov``, whose coordinates are not independent,
            the roughness of each coordinate's own density is taken: eq. (8) is a statement on one dimension.
        support_length: B > 0, length of the uniform prior's support (or standard deviation of a Gaussian prior).
        n: the sample size, the minibatch size M in the paper; positive.

    Returns:
        The penalty in nats, shape (..., d); sum over the last axis for an image's.
    """
    roughness = kernel.marginal_roughness if isinstance(kernel, SphericalEpanechnikov) else kernel.roughness
    return support_length * roughness / n


# Exact -------------------------------------------------------------------------------------------------------


def _exact(q: type[Distribution], p: type[Distribution]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a KL of distributions in float64."""

    def register(kl: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def rounded(q: Distribution, p: Distribution) -> Tensor:
            dtype = torch.promote_types(q.mean.dtype, p.mean.dtype)
            return kl(_in_double(q), _in_double(p)).clamp(min=0).to(dtype)

        register_kl(q, p)(rounded)
        return kl

    return register


def _in_double(distribution: Any) -> Any:
    """A copy whose parameters are float64."""
    copied = distribution.expand(distribution.batch_shape)
    for name in ("loc", "scale", "low", "high", "bandwidth", "kernel", "prior"):
        value = getattr(copied, name, None)
        if value is not None:
            setattr(copied, name, double(value) if isinstance(value, Tensor) else _in_double(value))
    return copied


@_exact(KernelPosterior, Normal)
@_exact(Kernel, Normal)
def _kl_to_normal(q: KernelPosterior | Kernel, p: Normal) -> Tensor:
    """J + ½ (x - ln(1 + x)) + (E q - m)²/(2τ²), x = Var q/τ² - 1: KL to the normal of q's moments, and its KL to p."""
    excess = _excess_variance(q, p) / p.scale.square()
    log_ratio = torch.where(
        excess > -0.5,
        excess.clamp(min=-0.5).log1p(),
        q.variance.log() - 2 * p.scale.log(),  # ln(1 + x)
    )
    return _negentropy(q) + (excess - log_ratio) / 2 + ((q.mean - p.loc) / p.scale).square() / 2


def _excess_variance(q: KernelPosterior | Kernel, p: Normal) -> Tensor:
    """Var q - τ²; where q's own prior is nearly p, without the difference of nearly equal numbers."""
    if isinstance(q, KernelPosterior) and isinstance(q.prior, Normal):
        sigma = q.prior.scale
        return q.bandwidth.square() * q.kernel.variance + (sigma - p.scale) * (sigma + p.scale)
    return q.variance - p.scale.square()


def _negentropy(q: KernelPosterior | Kernel) -> Tensor:
    """½ ln(2πe Var q) - H(q)."""
    if isinstance(q, KernelPosterior) and isinstance(q.prior, Normal):
        return negentropy(type(q.kernel), q.bandwidth * q.kernel.scale / q.prior.scale)
    if isinstance(q, Kernel):
        standard = math.log(2 * math.pi * math.e) / 2 + math.log(q.standard_variance) / 2 - q.standard_entropy
        return torch.full_like(q.scale, standard)
    return (math.log(2 * math.pi * math.e) + q.variance.log()) / 2 - q.entropy()


@_exact(KernelPosterior, Uniform)
@_exact(Kernel, Uniform)
def _kl_to_uniform(q: KernelPosterior | Kernel, p: Uniform) -> Tensor:
    """ln(length of p's support) - H(q) where the support of q lies inside, else infinite."""
    return torch.where(_inside(q, p), (p.high - p.low).log() - q.entropy(), math.inf)


def _inside(q: KernelPosterior | Kernel, p: Uniform) -> Tensor:
    support = q.support
    if not hasattr(support, "lower_bound"):  # all of R
        return torch.zeros_like(q.mean, dtype=torch.bool)
    return (support.lower_bound >= p.low) & (support.upper_bound <= p.high)


@_exact(UniformKernel, UniformKernel)
def _kl_uniform(q: UniformKernel, p: UniformKernel) -> Tensor:
    inside = (q.loc - q.scale >= p.loc - p.scale) & (q.loc + q.scale <= p.loc + p.scale)
    return torch.where(inside, (p.scale / q.scale).log(), math.inf)


@_exact(GaussianKernel, GaussianKernel)
def _kl_gaussian(q: GaussianKernel, p: GaussianKernel) -> Tensor:
    return _kl_to_normal(q, Normal(p.loc, p.scale, validate_args=False))


@_exact(LaplaceKernel, LaplaceKernel)
def _kl_laplace(q: LaplaceKernel, p: LaplaceKernel) -> Tensor:
    distance = (q.loc - p.loc).abs()
    return (p.scale / q.scale).log() - 1 + (distance + q.scale * (-distance / q.scale).exp()) / p.scale


# By sampling, and bounds -------------------------------------------------------------------------------------


def monte_carlo_kl(q: Distribution, p: Distribution, samples: int = 1) -> Tensor:
    """An unbiased estimate of KL(q‖p), the mean of ln q(z) - ln p(z) over draws of q: for priors known by log_prob.

    Args:
        q, p: distributions of one shape; q has ``rsample``.
        samples: draws for each element of the batch.

    Returns:
        The estimate in nats, shape ``q.batch_shape``, differentiable.
    """
    z = q.rsample((samples,))
    return (q.log_prob(z) - p.log_prob(z)).mean(0)


def maximum_mean_discrepancy(x: Tensor, y: Tensor, constants: Sequence[float]) -> Tensor:
    r"""The unbiased U-statistic of MMD² between the laws of two samples, as a mean over the points of the first.

    1/(n(n-1)) Σ_{i≠j} k(x_i, x_j) + 1/(m(m-1)) Σ_{i≠j} k(y_i, y_j) - 2/(nm) Σ_{i,j} k(x_i, y_j), with the sum of
    inverse multiquadratic kernels k(x, y) = Σ_C C/(C + ‖x - y‖²) (Tolstikhin et al., ICLR 2018). Being unbiased it is
    negative about as often as positive where the laws are equal.

    Args:
        x: n points, shape (n, d). A single point has no pair: its term is 0.
        y: m points, shape (m, d), m at least 2.
        constants: the values of C, positive.

    Returns:
        Shape (n,), with no unit; the mean is the statistic.
    """
    if len(x) < 2:
        return x.new_zeros(len(x))
    within_x = _multiquadratic(x, x, constants).fill_diagonal_(0).sum(1) / (len(x) - 1)
    within_y = _multiquadratic(y, y, constants).fill_diagonal_(0).sum() / (len(y) * (len(y) - 1))
    return within_x + within_y - 2 * _multiquadratic(x, y, constants).mean(1)


def _multiquadratic(x: Tensor, y: Tensor, constants: Sequence[float]) -> Tensor:
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    squared = squared.clamp(min=0)
    return torch.stack([c / (c + squared) for c in constants]).sum(0)


def chi_square(q: KernelPosterior, p: Normal | Uniform) -> Tensor:
    r"""χ²(q‖p) = ∫ (q - p)²/p, by quadrature; infinite where the integral is.

    KL(q‖p) ≤ ln(1 + χ²) ≤ χ²; the paper bounds KL by χ² (log t ≤ t - 1, eq. 4) before it takes the limit that
    ``kernel_penalty`` is.

    Args:
        q: a kernel posterior.
        p: the distribution to compare with, of the same batch shape.

    Returns:
        χ², shape ``q.batch_shape``.
    """
    width = (q.bandwidth * q.kernel.scale).double()
    distance, weights = posterior_panels(type(q.kernel), isinstance(q.prior, Uniform), width, q.support_length.double())
    wide = torch.cat([-distance, distance], -1)
    z = (q.mean.double().unsqueeze(-1) + wide).movedim(-1, 0)
    log_q = q.log_density_at(wide.abs().movedim(-1, 0))
    ratio = torch.logsumexp(2 * log_q - _log_prob(p, z) + torch.cat([weights, weights], -1).movedim(-1, 0).log(), 0)
    return torch.where(_finite_chi_square(q, p), torch.expm1(ratio), math.inf).to(q.mean.dtype)


def _log_prob(p: Normal | Uniform, z: Tensor) -> Tensor:
    if isinstance(p, Normal):
        return Normal(p.loc.double(), p.scale.double(), validate_args=False).log_prob(z)
    return -(p.high - p.low).double().log() + torch.zeros_like(z)


def _finite_chi_square(q: KernelPosterior, p: Normal | Uniform) -> Tensor:
    """Whether q²/p has tails that can be integrated."""
    if isinstance(p, Uniform):
        return _inside(q, p)
    if q.kernel.bounded:
        tail = torch.zeros_like(q.mean) if isinstance(q.prior, Uniform) else q.prior.variance
    elif isinstance(q.kernel, GaussianKernel):
        tail = (q.bandwidth * q.kernel.scale).square() + (0 if isinstance(q.prior, Uniform) else q.prior.variance)
    else:
        tail = torch.full_like(q.mean, math.inf)
    return tail < 2 * p.variance
