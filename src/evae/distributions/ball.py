"""The radially symmetric Epanechnikov kernel, and the posterior it makes."""

import math
from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.types import _size

from evae.distributions.base import Symmetric, expanded
from evae.distributions.constraints import Ball
from evae.distributions.posterior import SmoothedPrior


class SphericalEpanechnikov(Symmetric):
    r"""The radially symmetric Epanechnikov kernel in d dimensions.

    With c_d the volume of the unit ball, its standard form is (d + 2)/(2 c_d) · (1 - ‖u‖²) on the ball; the variance of
    a coordinate is 1/(d + 4), and ∫k² is 2(d + 2)/((d + 4) c_d). For d = 1 it is ``Epanechnikov``. A draw is the first
    d coordinates of a uniform point of the unit sphere in R^(d+4): exact, without rejection, at any d.

    Args:
        loc: centre, shape (..., d).
        scale: radius, positive, of a shape that broadcasts with ``loc``: a number, (..., 1) for one radius a vector, or
            (..., d) for the half-axes of an ellipsoid.

    Examples:
        >>> kernel = SphericalEpanechnikov(torch.zeros(64), 2.0)
        >>> kernel.rsample((3,)).shape
        torch.Size([3, 64])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(self, loc: Tensor, scale: Tensor | float, validate_args: bool | None = None) -> None:
        scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return Ball(self.loc, self.scale)

    @property
    def _dim(self) -> int:
        return self.event_shape[0]

    @property
    def _log_constant(self) -> float:
        """ln (d + 2)/(2 c_d)."""
        half = self._dim / 2
        return math.log((self._dim + 2) / 2) - (half * math.log(math.pi) - math.lgamma(half + 1))

    @property
    def variance(self) -> Tensor:
        return self.scale.square() / (self._dim + 4)

    @property
    def log_roughness(self) -> Tensor:
        """ln ∫K², shape ``batch_shape``; ∫K² itself leaves the range of floating point from d of about 100 on."""
        return self._log_constant + math.log(4 / (self._dim + 4)) - self.scale.log().sum(-1)

    @property
    def roughness(self) -> Tensor:
        """∫K², shape ``batch_shape``."""
        return self.log_roughness.exp()

    @property
    def marginal_roughness(self) -> Tensor:
        """∫ of the squared density of each coordinate, shape ``batch_shape + (d,)``.

        A coordinate's density is (1 - t²)^a / Β(½, a + 1) with a = (d + 1)/2, so this is Β(½, 2a + 1)/Β(½, a + 1)².
        """
        a = (self._dim + 1) / 2
        log_beta = [math.lgamma(0.5) + math.lgamma(b) - math.lgamma(0.5 + b) for b in (2 * a + 1, a + 1)]
        return math.exp(log_beta[0] - 2 * log_beta[1]) / self.scale

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape + batch_shape + (d,)``, differentiable in ``loc`` and ``scale``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        normal = torch.randn([*shape[:-1], self._dim + 4], dtype=self.loc.dtype, device=self.loc.device)
        unit = normal[..., : self._dim] / normal.norm(dim=-1, keepdim=True)
        return self.loc + self.scale * unit

    def log_prob(self, value: Tensor) -> Tensor:
        """ln K(value), shape ``batch_shape``; -inf outside the ball (rounded outward), where the gradient is 0."""
        if self._validate_args:
            self._validate_sample(value)
        squared = ((value - self.loc) / self.scale).square().sum(-1)
        outside = squared > Ball(self.loc, self.scale).radius.square()
        inner = torch.where(outside, 0.0, squared).clamp(max=1 - torch.finfo(squared.dtype).eps / 2)
        log_density = torch.log1p(-inner) + self._log_constant - self.scale.log().sum(-1)
        return torch.where(outside, -math.inf, log_density)

    def entropy(self) -> Tensor:
        """In nats, shape ``batch_shape``: ‖u‖² is Beta(d/2, 2), so that E ln(1 - ‖u‖²) = ψ(2) - ψ(d/2 + 2)."""
        digamma = torch.special.digamma(torch.tensor([2.0, self._dim / 2 + 2], dtype=torch.float64))
        return self.scale.log().sum(-1) - self._log_constant - (digamma[0] - digamma[1]).item()


class SphericalPosterior(SmoothedPrior):
    r"""The law of Z = b · K + U with K a ``SphericalEpanechnikov`` and U an independent draw from the prior.

    A ``KernelPosterior`` of dependent coordinates (paper, eq. 11-12): it has draws and moments, but no ``log_prob``,
    a convolution in d dimensions without a closed form.

    Args:
        kernel: the kernel at (μ, r) = (``loc``, ``scale``), before the bandwidth is applied; event shape (d,).
        prior: ``Independent(Uniform(-B/2, B/2), 1)`` or ``Independent(Normal(0, B), 1)``, event shape (d,).
        bandwidth: b > 0, a number or a tensor that broadcasts with (..., d).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "bandwidth": constraints.independent(constraints.positive, 1)
    }
    support = constraints.real_vector

    kernel: SphericalEpanechnikov
    prior: Independent[Distribution]

    def __init__(
        self,
        kernel: SphericalEpanechnikov,
        prior: Independent[Distribution],
        bandwidth: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.kernel = kernel
        self.prior = prior if prior.batch_shape == kernel.batch_shape else prior.expand(kernel.batch_shape)
        bandwidth = torch.as_tensor(bandwidth, dtype=kernel.loc.dtype, device=kernel.loc.device)
        self.bandwidth = expanded(bandwidth, kernel.loc.shape)
        super().__init__(kernel.batch_shape, kernel.event_shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> NoReturn:
        """Not available: raises NotImplementedError."""
        raise NotImplementedError("the density of a spherical posterior is an integral in d dimensions")
