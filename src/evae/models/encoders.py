"""Encoders: modules that turn images into a posterior, a torch Distribution over (N, d)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Uniform

from evae.distributions import Epanechnikov, Kernel, KernelPosterior, matched_scale
from evae.models.networks import count_features

# ln of the smallest and the largest spread a network may ask for, 1e-8 and 1e6: beyond them 1/r and r² leave float32's
# comfortable range, and no latent space has use for them.
_LOG_SPREAD = (-18.42, 13.82)


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
        kernel: class of the kernel.
        prior: module that returns the distribution of U.
        bandwidth: b, or what a learned b starts from.
        learned_bandwidths: 0 for a fixed b; 1 for one learned for all latents, d for one for each.
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        kernel: type[Kernel],
        prior: nn.Module,
        bandwidth: float,
        learned_bandwidths: int = 0,
    ) -> None:
        super().__init__(body, image_shape, latent_dim)
        self.kernel, self.prior = kernel, prior
        self.fixed_bandwidth = bandwidth
        if learned_bandwidths:
            self.log_bandwidth = nn.Parameter(torch.full((learned_bandwidths,), bandwidth).log())
        self.matched_scale = matched_scale(kernel, Epanechnikov.standard_variance)

    @property
    def bandwidth(self) -> Tensor | float:
        """b, a number or a tensor of shape (1,) or (d,)."""
        return self.log_bandwidth.exp() if hasattr(self, "log_bandwidth") else self.fixed_bandwidth

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        kernel = self.kernel(loc, scale * self.matched_scale, validate_args=False)
        prior = cast(Uniform | Normal, self.prior().base_dist)
        return Independent(KernelPosterior(kernel, prior, self.bandwidth, validate_args=False), 1, validate_args=False)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
