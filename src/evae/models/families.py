"""The models: short classes that name their hyperparameters and put encoder, prior, decoder and objective together."""

from typing import Literal, TypeVar

from torch import nn

from evae.distributions import KERNELS
from evae.errors import ConfigError
from evae.models.encoders import KernelEncoder, NormalEncoder
from evae.models.likelihoods import LIKELIHOODS
from evae.models.networks import ConvDecoder, ConvEncoder
from evae.models.objectives import Elbo, KernelPenalty
from evae.models.priors import NormalPrior, UniformPrior
from evae.models.vae import VAE

Likelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian"]

T = TypeVar("T")

PAPER_BANDWIDTH = 100 ** (-2 / 9)  # b(100), about 0.3594
PAPER_N = 100


class EVAE(VAE):
    """The kernel-based VAE of arXiv 2405.12783: z = b·(μ(x) + r(x)·K) + U, U a draw from the prior.

    It minimises eq. (10), -ln p(x|z) + B·I(K)/n per latent, for the Epanechnikov kernel 3B/(5n) Σ 1/r. Three things
    to know of it: μ is trained by the reconstruction alone; B/n has the part of β in a β-VAE, and at B = 0.1,
    n = 100 it is very small; and it is no bound on -ln p(x), since the posterior's support exceeds a uniform prior's.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        kernel: name of the smoothing kernel.
        bandwidth: b > 0 (the paper's b(100) = 100^(-2/9)).
        support_length: B > 0, length of the uniform prior's support, or standard deviation of the Gaussian prior.
        prior: "uniform" or "gaussian".
        n: eq. (10)'s M. None: the global batch size under `evae train`, else the paper's 100.
        likelihood: "bernoulli" (the paper's), "continuous_bernoulli" or "gaussian".
        encoder: your own body, images (N, C, H, W) to features (N, F), instead of Appendix C's.
        decoder: your own decoder, latents (N, d) to maps (N, C, H, W), instead of Appendix C's.

    Raises:
        ConfigError: a value outside its range, an unknown name, or an image shape without a network.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 64,
        kernel: str = "epanechnikov",
        bandwidth: float = PAPER_BANDWIDTH,
        support_length: float = 0.1,
        prior: Literal["uniform", "gaussian"] = "uniform",
        n: float | None = None,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        n = PAPER_N if n is None else n
        _check_positive(latent_dim=latent_dim, bandwidth=bandwidth, support_length=support_length, n=n)
        p = _pick({"uniform": UniformPrior, "gaussian": NormalPrior}, "prior", prior)(latent_dim, support_length)
        body = encoder or ConvEncoder(image_shape)
        super().__init__(
            image_shape,
            encoder=KernelEncoder(body, image_shape, latent_dim, _pick(KERNELS, "kernel", kernel), p, bandwidth),
            prior=p,
            decoder=decoder or ConvDecoder(image_shape, latent_dim),
            pixels=_pick(LIKELIHOODS, "likelihood", likelihood)(),
            objective=KernelPenalty(n),
        )


class GaussianVAE(VAE):
    """The variational autoencoder of Kingma and Welling (2014): Gaussian posterior, standard normal prior, ELBO.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        likelihood: "bernoulli" (the paper's), "continuous_bernoulli" or "gaussian".
        encoder: your own body, images (N, C, H, W) to features (N, F), instead of Appendix C's.
        decoder: your own decoder, latents (N, d) to maps (N, C, H, W), instead of Appendix C's.

    Raises:
        ConfigError: a value outside its range, an unknown name, or an image shape without a network.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 64,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        _check_positive(latent_dim=latent_dim)
        super().__init__(
            image_shape,
            encoder=NormalEncoder(encoder or ConvEncoder(image_shape), image_shape, latent_dim),
            prior=NormalPrior(latent_dim),
            decoder=decoder or ConvDecoder(image_shape, latent_dim),
            pixels=_pick(LIKELIHOODS, "likelihood", likelihood)(),
            objective=Elbo(),
        )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be positive and finite, not {value}")


def _pick(choices: dict[str, T], option: str, name: str) -> T:
    if name not in choices:
        raise ConfigError(f"unknown {option} {name!r}; known: {', '.join(choices)}")
    return choices[name]
