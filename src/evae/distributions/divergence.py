"""Divergences between posterior and prior: a *penalty* is a surrogate, a *KL* is exact, a *bound* is a proven bound.

Importing this module registers exact KL divergences with ``torch.distributions.kl_divergence``:
KernelPosterior or Kernel against Normal or Uniform, and against their like the Gaussian, the Laplace and the bounded
kernels (1 - t²)^m: uniform, Epanechnikov, biweight and triweight.
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
from evae.distributions.bounded import POWERS, kl_same_shape
from evae.distributions.entropy import negentropy
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel, LaplaceKernel
from evae.distributions.posterior import KernelPosterior
from evae.distributions.quadrature import double, posterior_panels


def kernel_penalty(
    kernel: Kernel | SphericalEpanechnikov, support_length: Tensor | float = 0.1, n: float = 100
) -> Tensor:
    r"""The asymptotic penalty of a kernel posterior, B · I(K) / n per dimension (arXiv 2405.12783, eq. 8).

    It replaces KL(q‖p) in the paper's objective, but does not bound it: at finite bandwidth the support of q exceeds
    that of a uniform prior, and KL(q‖p) is infinite. With q_m the density estimate from m prior draws, whose mean is q,
    E χ²(q_m‖p) = χ²(q‖p) + (∫ (K_w²⋆p)/p - 1 - χ²(q‖p))/m; for a uniform prior the penalty is the limit of the second
    term. The centre of the kernel does not enter. For the Epanechnikov kernel it is 3B/(5nr), the term of eq. (10).

    Args:
        kernel: the kernel, batch shape (..., d). Of a ``SphericalEpanechnikov``, whose coordinates are not independent,
            the roughness of each coordinate's own density is taken: eq. (8) is a statement on one dimension.
        support_length: B > 0, length of the uniform prior's support. (For a Gaussian prior, whose E χ²(q_m‖p) is
            infinite, the paper takes the standard deviation, without a derivation.)
        n: the sample size, the minibatch size M in the paper; positive.

    Returns:
        The penalty in nats, shape (..., d); sum over the last axis for an image's.
    """
    roughness = kernel.marginal_roughness if isinstance(kernel, SphericalEpanechnikov) else kernel.roughness
    return support_length * roughness / n


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
    """A copy whose parameters are float64, and which validates no values."""
    copied = distribution.expand(distribution.batch_shape)
    copied._validate_args = False
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


for _shape in POWERS:
    _exact(_shape, _shape)(kl_same_shape)


@_exact(GaussianKernel, GaussianKernel)
def _kl_gaussian(q: GaussianKernel, p: GaussianKernel) -> Tensor:
    return _kl_to_normal(q, Normal(p.loc, p.scale, validate_args=False))


@_exact(LaplaceKernel, LaplaceKernel)
def _kl_laplace(q: LaplaceKernel, p: LaplaceKernel) -> Tensor:
    distance = (q.loc - p.loc).abs()
    return (p.scale / q.scale).log() - 1 + (distance + q.scale * (-distance / q.scale).exp()) / p.scale


def monte_carlo_kl(q: Distribution, p: Distribution, samples: int = 1) -> Tensor:
    """An unbiased estimate of KL(q‖p), the mean of ln q(z) - ln p(z) over draws of q: for priors known by log_prob.

    Args:
        q: the distribution to draw from; it has ``rsample``.
        p: a distribution of the same shape.
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
    squared = (x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
    return torch.stack([c / (c + squared) for c in constants]).sum(0)


def chi_square(q: KernelPosterior, p: Normal | Uniform) -> Tensor:
    r"""χ²(q‖p) = ∫ (q - p)²/p, by quadrature; infinite where the integral is.

    KL(q‖p) ≤ ln(1 + χ²) ≤ χ² (paper, eq. 4: log t ≤ t - 1). ``kernel_penalty`` has no term in common with it.

    Args:
        q: a kernel posterior.
        p: the distribution to compare with, of the same batch shape.

    Returns:
        χ², shape ``q.batch_shape``.
    """
    dtype = q.mean.dtype
    q, p = _in_double(q), _in_double(p)
    width = q.bandwidth * q.kernel.scale
    finite, peaks = (_inside(q, p), []) if isinstance(p, Uniform) else _tails_of_ratio(q, p, width)
    distance, weights = posterior_panels(type(q.kernel), isinstance(q.prior, Uniform), width, q.support_length, peaks)
    wide = torch.cat([-distance, distance], -1)
    z = (q.mean.unsqueeze(-1) + wide).movedim(-1, 0)
    log_q = q.log_density_at(wide.abs().movedim(-1, 0))
    log_p = p.log_prob(z) if isinstance(p, Normal) else -(p.high - p.low).log()
    weights = torch.cat([weights, weights], -1).movedim(-1, 0)
    value = torch.expm1(torch.logsumexp(2 * log_q - log_p + weights.log(), 0))
    if isinstance(p, Normal):  # where it is small, ∫ q²/p - 1 cancels
        direct = ((log_q - log_p).clamp(max=1).expm1().square() * log_p.exp() * weights).sum(0)
        value = torch.where(value < 1e-4, direct, value)
    return torch.where(finite, value, math.inf).to(dtype)


@torch.no_grad()
def _tails_of_ratio(q: KernelPosterior, p: Normal, width: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Whether ∫ q²/p is finite, and peaks of q²/p, one on each side: distances from q's centre, standard deviations.

    Beyond an edge e, q falls as exp(-(|t| - e)²/(2s²)), so that q²/p is a normal density of variance s²τ²/(2τ² - s²).
    """
    is_uniform, is_gaussian = isinstance(q.prior, Uniform), isinstance(q.kernel, GaussianKernel)
    if not (q.kernel.bounded or is_gaussian):
        return torch.zeros_like(width, dtype=torch.bool), []
    edge = (q.support_length / 2 if is_uniform else 0) + (0 if is_gaussian else width)
    squared = torch.zeros_like(width) + (0 if is_uniform else q.prior.variance) + (width.square() if is_gaussian else 0)
    excess = 2 * p.variance - squared
    finite, excess = excess > 0, torch.where(excess > 0, excess, 1.0)
    deviation = (squared * p.variance / excess).sqrt()
    shift = squared * (q.mean - p.mean)
    return finite, [((2 * edge * p.variance + sign * shift) / excess, deviation) for sign in (-1, 1)]
