"""Encoders: modules that turn images into a posterior, a torch Distribution over (N, d)."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Uniform
from torch.nn import functional

from evae.distributions import (
    Epanechnikov,
    Kernel,
    KernelPosterior,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    matched_scale,
)
from evae.models.networks import count_features

# ln of the smallest and the largest spread a network may ask for, 1e-8 and 1e6: beyond them 1/r and r² leave float32's
# comfortable range, and no latent space has use for them.
_LOG_SPREAD = (-18.42, 13.82)


_LOG_CONCENTRATION = (math.log(1e-3), math.log(1e5))


class LocScaleEncoder(nn.Module):
    """Features to a centre and a spread per latent: two linear heads on a body (Appendix C).

    The spread is exp of its head, kept within [1e-8, 1e6]; both are at least float32, whatever the autocast.

    Args:
        body: images (N, C, H, W) to features (N, F).
        image_shape: (C, H, W).
        latent_dim: d.
    """

    def __init__(self, body: nn.Module, image_shape: tuple[int, int, int], latent_dim: int) -> None:
        super().__init__()
        features = count_features(body, image_shape)
        self.body = body
        self.loc = nn.Linear(features, latent_dim)
        self.log_scale = nn.Linear(features, latent_dim)

    def loc_scale(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and spread of the posterior, each (N, d)."""
        features = self.body(images)
        return _at_least_float32(self.loc(features)), _at_least_float32(self.log_scale(features)).clamp(
            *_LOG_SPREAD
        ).exp()


class NormalEncoder(LocScaleEncoder):
    """The Gaussian posterior Normal(μ(x), σ(x)) of the VAE (Kingma and Welling 2014)."""

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


class KernelEncoder(LocScaleEncoder):
    """The kernel posterior b·K(μ(x), r(x)) + U of EVAE (paper, eq. 12).

    r is the half-width of an Epanechnikov kernel; another kernel has the scale at which its variance is the same
    (the comparison of Lemma 3.2), so that kernels can be exchanged.

    Args:
        kernel: class of the kernel; SphericalEpanechnikov makes a SphericalPosterior, the others a KernelPosterior.
        prior: module that returns the distribution of U.
        bandwidth: b, or what a learned b starts from.
        learned_bandwidths: 0 for a fixed b; 1 for one learned for all latents, d for one for each.
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        kernel: type[Kernel] | type[SphericalEpanechnikov],
        prior: nn.Module,
        bandwidth: float,
        learned_bandwidths: int = 0,
    ) -> None:
        super().__init__(body, image_shape, latent_dim)
        self.kernel, self.prior = kernel, prior
        self.fixed_bandwidth = bandwidth
        if learned_bandwidths:
            self.log_bandwidth = nn.Parameter(torch.full((learned_bandwidths,), bandwidth).log())
        self.matched_scale = _matched_scale(kernel, latent_dim)

    @property
    def bandwidth(self) -> Tensor | float:
        """b, a number or a tensor of shape (1,) or (d,)."""
        return self.log_bandwidth.exp() if hasattr(self, "log_bandwidth") else self.fixed_bandwidth

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        prior: Independent[Distribution] = self.prior()
        kernel = self.kernel(loc, scale * self.matched_scale, validate_args=False)
        if isinstance(kernel, SphericalEpanechnikov):
            return SphericalPosterior(kernel, prior, self.bandwidth, validate_args=False)
        coordinate = cast(Uniform | Normal, prior.base_dist)
        posterior = KernelPosterior(kernel, coordinate, self.bandwidth, validate_args=False)
        return Independent(posterior, 1, validate_args=False)


def _matched_scale(kernel: type[Kernel] | type[SphericalEpanechnikov], latent_dim: int) -> Tensor | float:
    """The scale at which a coordinate's variance is that of the standard Epanechnikov kernel."""
    if issubclass(kernel, Kernel):
        return matched_scale(kernel, Epanechnikov.standard_variance)
    return math.sqrt((latent_dim + 4) * Epanechnikov.standard_variance)


class PointEncoder(nn.Module):
    """A deterministic encoder: all of the posterior at μ(x), as in a WAE (Tolstikhin et al. 2018)."""

    def __init__(self, body: nn.Module, image_shape: tuple[int, int, int], latent_dim: int) -> None:
        super().__init__()
        self.body = body
        self.loc = nn.Linear(count_features(body, image_shape), latent_dim)

    def forward(self, images: Tensor) -> Distribution:
        return PointMass(_at_least_float32(self.loc(self.body(images))), validate_args=False)


class SphereEncoder(nn.Module):
    """A posterior on the unit sphere of R^d, around μ(x)/‖μ(x)‖ with concentration κ(x).

    κ is d times exp of its head, kept within [1e-3, 1e5]: in units of d, because cos θ depends on κ/d alone where d is
    large. (With Davidson et al.'s 1 + softplus the posterior starts close to the prior from d = 10 on, and κ grows by
    steps that do not reach the hundreds it needs.) Both are at least float32, whatever the autocast.

    Args:
        body: images (N, C, H, W) to features (N, F).
        image_shape: (C, H, W).
        latent_dim: d; the sphere has d - 1 dimensions.
        posterior: the distribution.
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        posterior: type[VonMisesFisher] | type[PowerSpherical],
    ) -> None:
        super().__init__()
        features = count_features(body, image_shape)
        self.body, self.posterior = body, posterior
        self.loc = nn.Linear(features, latent_dim)
        self.concentration = nn.Linear(features, 1)

    def forward(self, images: Tensor) -> Distribution:
        features = self.body(images)
        loc = functional.normalize(_at_least_float32(self.loc(features)), dim=-1)
        raw = _at_least_float32(self.concentration(features)).squeeze(-1)
        concentration = (raw + math.log(loc.shape[-1])).clamp(*_LOG_CONCENTRATION).exp()
        return self.posterior(loc, concentration, validate_args=False)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
