"""Image likelihoods: modules from the decoder's output map to a Distribution over images (N, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal


def _images(pixels: Distribution) -> Distribution:
    return Independent(pixels, 3, validate_args=False)


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

    def _safe(self) -> tuple[Tensor, Tensor]:
        """Where |λ| is small enough for a series, and λ, 1 there."""
        small = self.logits.abs() < 1e-2
        return small, torch.where(small, 1.0, self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        small, logits = self._safe()
        x = logits.abs()
        exact = logits.clamp(min=0) + torch.log(-torch.expm1(-x)) - x.log()
        squared = self.logits.square()
        series = self.logits / 2 + squared / 24 - squared.square() / 2880
        return self.logits * value - torch.where(small, series, exact)

    @property
    def mean(self) -> Tensor:
        small, logits = self._safe()
        series = 0.5 + self.logits / 12 - self.logits**3 / 720
        # 1/(1 - e^-λ) - 1/λ, mirrored to positive λ, where nothing overflows
        x = logits.abs()
        positive = -1 / torch.expm1(-x) - 1 / x
        return torch.where(small, series, torch.where(logits > 0, positive, 1 - positive))


class ContinuousBernoulliLikelihood(nn.Module):
    """Independent continuous Bernoulli pixels on [0, 1] (Loaiza-Ganem and Cunningham, NeurIPS 2019)."""

    def forward(self, maps: Tensor) -> Distribution:
        return _images(_ExactContinuousBernoulli(logits=maps, validate_args=False))


class GaussianLikelihood(nn.Module):
    """Independent normal pixels: the mean is a sigmoid, one standard deviation is learned for all of them.

    It balances reconstruction against divergence by itself (Rybkin et al., ICML 2021), from 1 on, and stays above 1e-3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Distribution:
        scale = 1e-3 + (1 - 1e-3) * self.log_scale.exp()
        return _images(Normal(maps.sigmoid(), scale, validate_args=False))


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
}
