"""The models: short classes that name their hyperparameters and put encoder, prior, decoder and objective together."""

from collections.abc import Collection
from typing import Literal

from torch import nn

from evae.distributions import KERNELS
from evae.errors import ConfigError
from evae.models.encoders import KernelEncoder, NormalEncoder
from evae.models.likelihoods import LIKELIHOODS
from evae.models.networks import ConvDecoder, ConvEncoder, check_decoder
from evae.models.objectives import Elbo, KernelPenalty
from evae.models.priors import NormalPrior, UniformPrior
from evae.models.vae import VAE

Likelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian"]

PAPER_BANDWIDTH = 100 ** (-2 / 9)  # b(100), about 0.3594
PAPER_SUPPORT_LENGTH = 0.1
PAPER_N = 100

_LARGEST = 1e12
_MOST_LATENTS = 2**20


class EVAE(VAE):
    """The kernel-based VAE of arXiv 2405.12783: z = b·(μ(x) + r(x)·K) + U, U a draw from the prior.

    By default it minimises eq. (10), -ln p(x|z) + B·I(K)/n per latent, for the Epanechnikov kernel 3B/(5n) Σ 1/r. Three
    things to know of it: μ is trained by the reconstruction alone; B/n has the part of β in a β-VAE, and at B = 0.1,
    n = 100 it is very small; and it is no bound on -ln p(x), since the posterior's support exceeds a uniform prior's.
    With ``prior="gaussian", objective="elbo"`` it minimises the exact negative ELBO instead (docs/objective.md).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        kernel: uniform, epanechnikov, biweight, triweight, triangular, tricube, cosine, gaussian, logistic or laplace.
        bandwidth: b > 0 (the paper's b(100) = 100^(-2/9)); or "bickel-rosenblatt" for m^(-2/9); or, with the elbo,
            "learned" for one b, "learned-per-latent" for one for each latent.
        m: sample size of the "bickel-rosenblatt" bandwidth.
        support_length: B > 0, length of the uniform prior's support, or standard deviation of the Gaussian prior; or,
            with the elbo, "learned".
        prior: "uniform" or "gaussian".
        objective: "penalty" (eq. 10) or "elbo".
        n: eq. (10)'s M. None: the global batch size under `evae train`, else the paper's 100.
        likelihood: "bernoulli" (the paper's), "continuous_bernoulli" or "gaussian".
        encoder: your own body, images (N, C, H, W) to features (N, F), instead of Appendix C's.
        decoder: your own decoder, latents (N, d) to maps (N, C, H, W), instead of Appendix C's.

    Raises:
        ConfigError: a value outside its range, an unknown name, settings that have no minimum together, or an image
            shape without a network.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 64,
        kernel: str = "epanechnikov",
        bandwidth: float | Literal["bickel-rosenblatt", "learned", "learned-per-latent"] = PAPER_BANDWIDTH,
        support_length: float | Literal["learned"] = PAPER_SUPPORT_LENGTH,
        prior: Literal["uniform", "gaussian"] = "uniform",
        objective: Literal["penalty", "elbo"] = "penalty",
        n: float | None = None,
        m: float = 100,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        n = PAPER_N if n is None else n
        _check_positive(latent_dim=latent_dim, n=n, m=m)
        _check_learnable(objective, prior, bandwidth=bandwidth, support_length=support_length)
        learned = {"learned": 1, "learned-per-latent": latent_dim}.get(str(bandwidth), 0)
        rule = m ** (-2 / 9) if bandwidth == "bickel-rosenblatt" else PAPER_BANDWIDTH
        b = rule if learned or bandwidth == "bickel-rosenblatt" else _number("bandwidth", bandwidth)
        length = PAPER_SUPPORT_LENGTH if support_length == "learned" else _number("support_length", support_length)
        _pick({"uniform", "gaussian"}, "prior", prior)
        if prior == "uniform":
            p: nn.Module = UniformPrior(latent_dim, length)
        else:
            p = NormalPrior(latent_dim, length, learned=support_length == "learned")
        body = ConvEncoder(image_shape) if encoder is None else encoder
        cls = KERNELS[_pick(KERNELS, "kernel", kernel)]
        super().__init__(
            image_shape,
            encoder=KernelEncoder(body, image_shape, latent_dim, cls, p, b, learned),
            prior=p,
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=LIKELIHOODS[_pick(LIKELIHOODS, "likelihood", likelihood)](),
            objective=KernelPenalty(n) if objective == "penalty" else Elbo(),
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
        body = ConvEncoder(image_shape) if encoder is None else encoder
        super().__init__(
            image_shape,
            encoder=NormalEncoder(body, image_shape, latent_dim),
            prior=NormalPrior(latent_dim),
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=LIKELIHOODS[_pick(LIKELIHOODS, "likelihood", likelihood)](),
            objective=Elbo(),
        )


def _decoder(own: nn.Module | None, image_shape: tuple[int, int, int], latent_dim: int) -> nn.Module:
    return ConvDecoder(image_shape, latent_dim) if own is None else check_decoder(own, image_shape, latent_dim)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < _LARGEST:
        raise ConfigError(f"{name} must be positive and below {_LARGEST:g}, not {value}")
    return float(value)


def _check_positive(latent_dim: int = 1, **values: float) -> None:
    if not isinstance(latent_dim, int) or not 0 < latent_dim <= _MOST_LATENTS:
        raise ConfigError(f"latent_dim must be a whole number, positive and at most {_MOST_LATENTS}, not {latent_dim}")
    for name, value in values.items():
        _number(name, value)


def _check_learnable(objective: str, prior: str, **values: object) -> None:
    _pick({"penalty", "elbo"}, "objective", objective)
    if objective == "elbo" and prior == "uniform":
        raise ConfigError(
            "objective 'elbo' needs prior 'gaussian': the posterior's support exceeds a uniform prior's, and its KL is "
            "infinite"
        )
    for name, value in values.items():
        if objective == "penalty" and str(value).startswith("learned"):
            raise ConfigError(f"{name} 'learned' needs objective 'elbo': the penalty has no minimum in it")


def _pick(choices: Collection[str], option: str, name: str) -> str:
    """``name``, if it is one of the choices."""
    if name not in choices:
        raise ConfigError(f"unknown {option} {name!r}; known: {', '.join(sorted(choices))}")
    return name
