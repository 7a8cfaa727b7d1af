"""Likelihoods: modules from the decoder's maps to a Distribution over images (N, C, H, W) or rows (N, F)."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal, StudentT

from evae.checks import one_of, positive
from evae.errors import ConfigError
from evae.models.networks import ImageShape, is_row

_LEAST_SCALE = 1e-3
_INITIAL_DF = 10.0


def _images(pixels: Distribution) -> Distribution:
    """Independent pixels or columns, all but the first axis."""
    return Independent(pixels, len(pixels.batch_shape) - 1, validate_args=False)


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli pixels; -ln p(x|z) is the binary cross-entropy summed over pixels and channels.

    As in the paper it is used for intensities in [0, 1] too, for which ContinuousBernoulliLikelihood is normalised.
    """

    def forward(self, maps: Tensor) -> Distribution:
        return _images(Bernoulli(logits=maps, validate_args=False))


class _ExactContinuousBernoulli(ContinuousBernoulli):
    """torch's, with density and mean taken from the logits λ: torch clamps its probabilities, and with them |λ| to 16.

    p(x) = exp(λ x - A(λ)), A(λ) = ln ((e^λ - 1)/λ), and the mean is A'(λ).
    """

    def _safe(self, limit: float) -> tuple[Tensor, Tensor]:
        """Where |λ| is below the limit, small enough for a series, and λ, 1 there."""
        small = self.logits.abs() < limit
        return small, torch.where(small, 1.0, self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        small, logits = self._safe(1e-2)
        x = logits.abs()
        exact = logits.clamp(min=0) + torch.log(-torch.expm1(-x)) - x.log()
        squared = self.logits.square()
        series = self.logits / 2 + squared / 24 - squared.square() / 2880
        return self.logits * value - torch.where(small, series, exact)

    @property
    def mean(self) -> Tensor:
        small, logits = self._safe(0.3)  # ONNX has no expm1, and e^-x - 1 loses digits for smaller λ
        squared = self.logits.square()
        tail = squared * (1 / 30240 + squared * (-1 / 1209600 + squared / 47900160))
        series = 0.5 + self.logits * (1 / 12 + squared * (-1 / 720 + tail))
        # 1/(1 - e^-λ) - 1/λ, mirrored to positive λ, where nothing overflows
        x = logits.abs()
        positive = -1 / torch.expm1(-x) - 1 / x
        return torch.where(small, series, torch.where(logits > 0, positive, 1 - positive))


class ContinuousBernoulliLikelihood(nn.Module):
    """Independent continuous Bernoulli pixels on [0, 1] (Loaiza-Ganem and Cunningham, NeurIPS 2019)."""

    def forward(self, maps: Tensor) -> Distribution:
        return _images(_ExactContinuousBernoulli(logits=maps, validate_args=False))


class _LocationScale(nn.Module):
    """A location and a scale: of images a sigmoid and one scale for all pixels, of rows any number and one per column.

    A learned scale starts from 1 and stays above 1e-3.

    Args:
        image_shape: (C, H, W) or (F,).
        scale: a fixed scale; None: learned.
    """

    def __init__(self, image_shape: ImageShape = (1, 1, 1), scale: float | None = None) -> None:
        super().__init__()
        self.is_row = is_row(image_shape)
        self.parameter_shape = image_shape if self.is_row else ()
        self.fixed_scale = None if scale is None else positive("likelihood_scale", scale)
        self.log_scale = None if scale is not None else nn.Parameter(torch.zeros(self.parameter_shape))

    def location(self, maps: Tensor) -> Tensor:
        """The mean of each pixel or column."""
        return maps if self.is_row else maps.sigmoid()

    @property
    def scale(self) -> Tensor | float:
        """The scale, shape () or (F,)."""
        if self.log_scale is not None:
            return _LEAST_SCALE + (1 - _LEAST_SCALE) * self.log_scale.exp()
        assert self.fixed_scale is not None
        return self.fixed_scale


class GaussianLikelihood(_LocationScale):
    """Independent normal pixels or columns: of images the mean is a sigmoid; the standard deviation is learned.

    A learned one balances reconstruction against divergence by itself (Rybkin et al., ICML 2021), from 1 on, and stays
    above 1e-3; images have one for all pixels, rows one for each column.
    """

    def forward(self, maps: Tensor) -> Distribution:
        return _images(Normal(self.location(maps), self.scale, validate_args=False))


class StudentLikelihood(_LocationScale):
    """Independent pixels or columns of Student's t: p(x) ∝ (1 + (x - m)²/(ν s²))^(-(ν + 1)/2).

    m is the decoder's, a sigmoid for images. The scale s is learned as that of ``GaussianLikelihood``, and so are the
    degrees of freedom ν > 1, one for all pixels, or one for each column, from 10 on (Takahashi et al., IJCAI 2018).
    """

    def __init__(self, image_shape: ImageShape = (1, 1, 1), scale: float | None = None) -> None:
        super().__init__(image_shape, scale)
        self.log_df = nn.Parameter(torch.full(self.parameter_shape, math.log(_INITIAL_DF - 1)))

    @property
    def df(self) -> Tensor:
        """ν, shape () or (F,)."""
        return 1 + self.log_df.exp()

    def forward(self, maps: Tensor) -> Distribution:
        return _images(StudentT(self.df, self.location(maps), self.scale, validate_args=False))


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "student": StudentLikelihood,
}


def make_likelihood(name: str, image_shape: ImageShape, scale: float | None = None) -> nn.Module:
    """The likelihood of a name for images (C, H, W) or rows (F,), with a fixed ``scale`` where one is given.

    Raises:
        ConfigError: there is no such likelihood, or it is not for rows, or it has no scale.
    """
    likelihood = LIKELIHOODS[one_of("likelihood", name, LIKELIHOODS)]
    if issubclass(likelihood, _LocationScale):
        return likelihood(image_shape, scale)
    if is_row(image_shape):
        raise ConfigError(f"likelihood {name!r} is for images in [0, 1]; rows of numbers take gaussian or student")
    if scale is not None:
        raise ConfigError(f"likelihood_scale is for the likelihoods gaussian and student, not {name}")
    return likelihood()
