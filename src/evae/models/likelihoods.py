"""Image likelihoods: modules from the decoder's output map to a Distribution over images (N, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal


def _images(pixels: Distribution) -> Distribution:
    return Independent(pixels, 3, validate_args=False)


class BernoulliLikelihood(nn.Module):
    """Independent Bernoulli pixels; -ln p(x|z) is the binary cross-entropy summed over pixels and channels.

    As in the paper it is used for intensities x in [0, 1] too, for which it is no normalised density
    (Loaiza-Ganem and Cunningham 2019; see ContinuousBernoulliLikelihood).
    """

    def forward(self, maps: Tensor) -> Distribution:
        return _images(Bernoulli(logits=maps, validate_args=False))


class ContinuousBernoulliLikelihood(nn.Module):
    """Independent continuous Bernoulli pixels on [0, 1] (Loaiza-Ganem and Cunningham, NeurIPS 2019)."""

    def forward(self, maps: Tensor) -> Distribution:
        return _images(ContinuousBernoulli(logits=maps, validate_args=False))


class GaussianLikelihood(nn.Module):
    """Independent normal pixels: the mean is a sigmoid, one standard deviation is learned for all of them.

    The learned deviation balances reconstruction against divergence by itself (Rybkin, Daniilidis and Levine,
    ICML 2021). It starts at 1 and is kept above 1e-3.
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
