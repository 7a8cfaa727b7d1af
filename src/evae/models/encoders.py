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
    MultivariateStudentT,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    coordinates,
    matched_scale,
)
from evae.models.networks import ImageShape, count_features
from evae.models.priors import KernelPrior, UniformPrior

# ln of 1e-8 and 1e6: beyond them 1/r and r² approach the ends of float32's range.
_LOG_SPREAD = (-18.42, 13.82)
_INITIAL_LOG_ODDS = -2.0  # of r as a share of B/2
_LOG_CONCENTRATION = (math.log(1e-3), math.log(1e5))


class Encoder(nn.Module):
    """A body, from images (N, C, H, W) to features (N, F), and linear heads on them (Appendix C).

    The head ``loc`` has d outputs, ``heads`` are further ones. Outputs are at least float32, whatever the autocast.
    """

    def __init__(self, body: nn.Module, image_shape: ImageShape, latent_dim: int, **heads: int) -> None:
        super().__init__()
        features = count_features(body, image_shape)
        self.body, self._heads = body, {"loc": latent_dim, **heads}
        for name, outputs in self._heads.items():
            self.add_module(name, nn.Linear(features, outputs))

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Those of each head, (N, outputs)."""
        features = self.body(images)
        outputs = [self.get_submodule(name)(features) for name in self._heads]
        return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in outputs]


def _bounded(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` within [low, high]; its gradient is 1 (0 where ``x`` is infinite), so that values beyond can return."""
    x = x.clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)
    return x.clamp(low, high).detach() + (x - x.detach())


class LocScaleEncoder(Encoder):
    """A centre and a spread per latent; the spread is exp of its head, within [1e-8, 1e6]."""

    def __init__(self, body: nn.Module, image_shape: ImageShape, latent_dim: int) -> None:
        super().__init__(body, image_shape, latent_dim, log_scale=latent_dim)

    def loc_scale(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and spread of the posterior, each (N, d)."""
        loc, log_scale = self.outputs(images)
        return loc, _bounded(log_scale, *_LOG_SPREAD).exp()


class NormalEncoder(LocScaleEncoder):
    """The Gaussian posterior N(μ(x), σ(x)²) of the VAE (Kingma and Welling 2014)."""

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


class StudentEncoder(LocScaleEncoder):
    """Student's t with ν + n degrees of freedom, μ(x) and the scales √(ν/(ν + n))·σ(x), as of t³VAE (Kim et al. 2024).

    Args:
        df: ν of the model's prior; n is the number of pixels or columns.
    """

    def __init__(self, body: nn.Module, image_shape: ImageShape, latent_dim: int, df: float) -> None:
        super().__init__(body, image_shape, latent_dim)
        self.df, self.data_df = df, df + math.prod(image_shape)

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        shrunk = scale * math.sqrt(self.df / self.data_df)
        return MultivariateStudentT(self.data_df, loc, shrunk, validate_args=False)


class KernelEncoder(LocScaleEncoder):
    """The kernel posterior b·K(μ(x), r(x)) + U of EVAE (paper, eq. 12).

    r is the half-width of an Epanechnikov kernel; another kernel has the scale of the same variance (as in Lemma 3.2).

    Args:
        kernel: class of the kernel; SphericalEpanechnikov makes a SphericalPosterior, the others a KernelPosterior.
        prior: module that returns the distribution of U.
        bandwidth: b, or the initial value of a learned b.
        learned_bandwidths: 0 for a fixed b; 1 for one learned for all latents, d for one for each.
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: ImageShape,
        latent_dim: int,
        kernel: type[Kernel | SphericalEpanechnikov],
        prior: nn.Module,
        bandwidth: float,
        learned_bandwidths: int = 0,
    ) -> None:
        super().__init__(body, image_shape, latent_dim)
        self.kernel, self.prior, self.fixed_bandwidth = kernel, prior, bandwidth
        initial = torch.full((learned_bandwidths,), bandwidth).log()
        self.log_bandwidth = nn.Parameter(initial) if learned_bandwidths else None
        variance = Epanechnikov.standard_variance
        spherical = math.sqrt((latent_dim + 4) * variance)  # a coordinate's variance is the same
        self.matched_scale = matched_scale(kernel, variance) if issubclass(kernel, Kernel) else spherical

    @property
    def bandwidth(self) -> Tensor | float:
        """b, a number or a tensor of shape (1,) or (d,)."""
        return self.fixed_bandwidth if self.log_bandwidth is None else self.log_bandwidth.exp()

    def forward(self, images: Tensor) -> Distribution:
        loc, scale = self.loc_scale(images)
        prior = self.prior()
        kernel = self.kernel(loc, scale * self.matched_scale, validate_args=False)
        if isinstance(kernel, SphericalEpanechnikov):
            return SphericalPosterior(kernel, prior, self.bandwidth, validate_args=False)
        coordinate = cast(Uniform | Normal, coordinates(prior))
        posterior = KernelPosterior(kernel, coordinate, self.bandwidth, validate_args=False)
        return Independent(posterior, 1, validate_args=False)


class BoundedEncoder(Encoder):
    """Kernels inside [-B/2, B/2]: half-width r = (B/2)·σ(s), centre μ = (B/2 - r)·tanh(m); s and m are its heads.

    B/2 is taken 8 roundings smaller, so that no draw and no support is rounded out of the interval. r is at least
    1e-8·B/2.

    Args:
        kernel: class of the kernel, of bounded support.
        prior: module with the support length B of each latent, ``spread``.
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: ImageShape,
        latent_dim: int,
        kernel: type[Kernel],
        prior: UniformPrior | KernelPrior,
    ) -> None:
        super().__init__(body, image_shape, latent_dim, log_odds=latent_dim)
        self.kernel, self.prior = kernel, prior

    def forward(self, images: Tensor) -> Distribution:
        loc, log_odds = self.outputs(images)
        rounding = torch.finfo(loc.dtype).eps
        half = self.prior.spread / 2 * (1 - 8 * rounding)
        scale = half * _bounded(functional.logsigmoid(log_odds + _INITIAL_LOG_ODDS), _LOG_SPREAD[0], 0.0).exp()
        centre = (half - scale) * (1 - 4 * rounding) * loc.tanh()
        return Independent(self.kernel(centre, scale, validate_args=False), 1, validate_args=False)


class PointEncoder(Encoder):
    """A deterministic encoder, a point mass at μ(x), as in a WAE (Tolstikhin et al. 2018)."""

    def forward(self, images: Tensor) -> Distribution:
        (loc,) = self.outputs(images)
        return PointMass(loc, validate_args=False)


class SphereEncoder(Encoder):
    """A posterior on the unit sphere of R^d, around μ(x)/‖μ(x)‖ with concentration κ(x).

    κ is d times exp of its head, kept within [1e-3, 1e5]: in units of d, because cos θ depends on κ/d alone where d is
    large. (With Davidson et al.'s 1 + softplus κ is too slow to reach the hundreds it needs from d = 10 on.)
    """

    def __init__(
        self,
        body: nn.Module,
        image_shape: ImageShape,
        latent_dim: int,
        posterior: type[VonMisesFisher | PowerSpherical],
    ) -> None:
        super().__init__(body, image_shape, latent_dim, concentration=1)
        self.posterior = posterior

    def forward(self, images: Tensor) -> Distribution:
        loc, raw = self.outputs(images)
        concentration = _bounded(raw.squeeze(-1) + math.log(loc.shape[-1]), *_LOG_CONCENTRATION).exp()
        return self.posterior(functional.normalize(loc, dim=-1), concentration, validate_args=False)
