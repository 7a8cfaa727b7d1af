"""The models: short classes that name their hyperparameters and put encoder, prior, decoder and objective together."""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from evae.distributions import KERNELS, Kernel, PowerSpherical, SphericalEpanechnikov, VonMisesFisher
from evae.errors import ConfigError
from evae.models.encoders import KernelEncoder, NormalEncoder, PointEncoder, SphereEncoder
from evae.models.likelihoods import LIKELIHOODS
from evae.models.networks import ConvDecoder, ConvEncoder, check_decoder
from evae.models.objectives import (
    Elbo,
    ImportanceWeighted,
    IwaeGradient,
    KernelPenalty,
    MmdPenalty,
    VampElbo,
    WeightedKl,
)
from evae.models.priors import NormalPrior, SphericalPrior, UniformPrior, VampPrior
from evae.models.vae import VAE

Likelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian"]

_Name = TypeVar("_Name", bound=str)

PAPER_BANDWIDTH = 100 ** (-2 / 9)  # b(100), about 0.3594
PAPER_SUPPORT_LENGTH = 0.1
PAPER_N = 100

_LARGEST = 1e12
_MOST = 2**20

_KERNELS: dict[str, type[Kernel] | type[SphericalEpanechnikov]] = {
    **KERNELS,
    "spherical_epanechnikov": SphericalEpanechnikov,
}


class EVAE(VAE):
    """The kernel-based VAE of arXiv 2405.12783: z = b·(μ(x) + r(x)·K) + U, U a draw from the prior.

    By default it minimises eq. (10), -ln p(x|z) + B·I(K)/n per latent, for the Epanechnikov kernel 3B/(5n) Σ 1/r. Three
    things to know of it: μ is trained by the reconstruction alone; B/n has the part of β in a β-VAE, and at B = 0.1,
    n = 100 it is very small; and it is no bound on -ln p(x), since the posterior's support exceeds a uniform prior's.
    With ``prior="gaussian", objective="elbo"`` it minimises the exact negative ELBO instead (docs/objective.md).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        kernel: uniform, epanechnikov, biweight, triweight, triangular, tricube, cosine, gaussian, logistic or laplace;
            or, with the penalty, spherical_epanechnikov, the radially symmetric kernel in d dimensions.
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
        _check_counts(latent_dim=latent_dim)
        _number("n", n)
        _number("m", m)
        cls = _KERNELS[_pick(_KERNELS, "kernel", kernel)]
        _check_objective(objective, prior, cls)
        _check_learnable(objective, bandwidth=bandwidth, support_length=support_length)
        learned = {"learned": 1, "learned-per-latent": latent_dim}.get(str(bandwidth), 0)
        rule = m ** (-2 / 9) if bandwidth == "bickel-rosenblatt" else PAPER_BANDWIDTH
        b = rule if learned or bandwidth == "bickel-rosenblatt" else _number("bandwidth", bandwidth)
        length = PAPER_SUPPORT_LENGTH if support_length == "learned" else _number("support_length", support_length)
        _pick({"uniform", "gaussian"}, "prior", prior)
        if prior == "uniform":
            p: nn.Module = UniformPrior(latent_dim, length)
        else:
            p = NormalPrior(latent_dim, length, learned=support_length == "learned")
        super().__init__(
            image_shape,
            encoder=KernelEncoder(_body(encoder, image_shape), image_shape, latent_dim, cls, p, b, learned),
            prior=p,
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=_pixels(likelihood),
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
        _check_counts(latent_dim=latent_dim)
        super().__init__(
            image_shape,
            encoder=NormalEncoder(_body(encoder, image_shape), image_shape, latent_dim),
            prior=NormalPrior(latent_dim),
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=_pixels(likelihood),
            objective=Elbo(),
        )


class BetaVAE(GaussianVAE):
    """A GaussianVAE whose KL is multiplied by β (Higgins et al., ICLR 2017).

    Above 1, as there, the latents are pressed to be independent; the paper compares β = 0.1, and 5.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        beta: β > 0; at 1 the model is a GaussianVAE, below 1 its loss is no bound on -ln p(x).
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
        beta: float = 4.0,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood, encoder, decoder)
        self.objective = WeightedKl(_number("beta", beta))


class IWAE(GaussianVAE):
    """The importance-weighted autoencoder, a GaussianVAE that maximises the k-sample bound (Burda et al., ICLR 2016).

    Its loss is the negative bound itself, which is below reconstruction + kl.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        samples: k, posterior samples for each image; the decoder's work grows with it.
        gradient: "standard", or "doubly-reparameterised" (Tucker et al., ICLR 2019), of less noise for the encoder.
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
        samples: int = 5,
        gradient: IwaeGradient = "standard",
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood, encoder, decoder)
        _check_counts(samples=samples)
        self.objective = ImportanceWeighted(samples, _pick(get_args(IwaeGradient), "gradient", gradient))


class VampVAE(GaussianVAE):
    """A GaussianVAE whose prior is the mixture of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018).

    The pseudo-inputs start from training images under `evae train`, from noise otherwise; see ``initialise``. Its KL is
    estimated from one draw and named so. Every step encodes all pseudo-inputs.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        pseudo_inputs: K, the number of components.
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
        pseudo_inputs: int = 500,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood, encoder, decoder)
        _check_counts(pseudo_inputs=pseudo_inputs)
        self.prior = VampPrior(self.encoder, image_shape, pseudo_inputs)
        self.objective = VampElbo()

    @torch.no_grad()
    def initialise(self, draw: Callable[[int], Tensor]) -> None:
        """Start the pseudo-inputs from training images."""
        pseudo_inputs = self.prior.get_parameter("pseudo_inputs")
        pseudo_inputs.copy_(draw(len(pseudo_inputs)))


class WAE(VAE):
    """The Wasserstein autoencoder with MMD: a deterministic encoder and N(0, 1) codes (Tolstikhin et al., ICLR 2018).

    Their cost is the squared error, which ``likelihood="gaussian"`` resembles; the default is the cross-entropy of the
    paper's comparison. It has no posterior density, so no bound on ln p(x).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        weight: λ > 0 of the MMD; theirs is 10 for MNIST, 100 for CelebA.
        scales: of the inverse multiquadratic kernels C/(C + ‖x - y‖²), C = 2d·scale.
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
        weight: float = 10.0,
        scales: Sequence[float] = MmdPenalty.scales,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        _check_counts(latent_dim=latent_dim)
        if not scales:
            raise ConfigError("scales must hold one positive number at least")
        scales = [_number("scales", scale) for scale in scales]
        super().__init__(
            image_shape,
            encoder=PointEncoder(_body(encoder, image_shape), image_shape, latent_dim),
            prior=NormalPrior(latent_dim),
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=_pixels(likelihood),
            objective=MmdPenalty(_number("weight", weight), scales),
        )


class HVAE(VAE):
    """The hyperspherical VAE (Davidson et al., UAI 2018, as S-VAE): von Mises-Fisher posterior, uniform prior, ELBO.

    Its latents are points of the unit sphere of R^d; ``encode`` gives the posterior's mean direction.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
        likelihood: "bernoulli" (the paper's), "continuous_bernoulli" or "gaussian".
        encoder: your own body, images (N, C, H, W) to features (N, F), instead of Appendix C's.
        decoder: your own decoder, latents (N, d) to maps (N, C, H, W), instead of Appendix C's.

    Raises:
        ConfigError: a value outside its range, an unknown name, or an image shape without a network.
    """

    posterior_family: ClassVar[type[VonMisesFisher] | type[PowerSpherical]] = VonMisesFisher

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 64,
        likelihood: Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        _check_counts(latent_dim=latent_dim)
        if latent_dim < 2:
            raise ConfigError("latent_dim must be at least 2: the sphere around 0 in one dimension is two points")
        super().__init__(
            image_shape,
            encoder=SphereEncoder(_body(encoder, image_shape), image_shape, latent_dim, self.posterior_family),
            prior=SphericalPrior(latent_dim),
            decoder=_decoder(decoder, image_shape, latent_dim),
            pixels=_pixels(likelihood),
            objective=Elbo(),
        )

    def centre(self, q: Distribution) -> Tensor:
        """The mean direction: the mean is inside the sphere, where the decoder has never been."""
        return q.mode


class PowerSphericalVAE(HVAE):
    """An HVAE with the power spherical posterior, which is drawn without rejection (De Cao and Aziz 2020).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
        likelihood: "bernoulli" (the paper's), "continuous_bernoulli" or "gaussian".
        encoder: your own body, images (N, C, H, W) to features (N, F), instead of Appendix C's.
        decoder: your own decoder, latents (N, d) to maps (N, C, H, W), instead of Appendix C's.

    Raises:
        ConfigError: a value outside its range, an unknown name, or an image shape without a network.
    """

    posterior_family = PowerSpherical


def _body(own: nn.Module | None, image_shape: tuple[int, int, int]) -> nn.Module:
    return ConvEncoder(image_shape) if own is None else own


def _pixels(likelihood: Likelihood) -> nn.Module:
    return LIKELIHOODS[_pick(LIKELIHOODS, "likelihood", likelihood)]()


def _decoder(own: nn.Module | None, image_shape: tuple[int, int, int], latent_dim: int) -> nn.Module:
    return ConvDecoder(image_shape, latent_dim) if own is None else check_decoder(own, image_shape, latent_dim)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < _LARGEST:
        raise ConfigError(f"{name} must be positive and below {_LARGEST:g}, not {value}")
    return float(value)


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or not 0 < value <= _MOST:
            raise ConfigError(f"{name} must be a whole number, positive and at most {_MOST}, not {value}")


def _check_objective(objective: str, prior: str, kernel: type) -> None:
    _pick({"penalty", "elbo"}, "objective", objective)
    if objective == "elbo" and not issubclass(kernel, Kernel):
        raise ConfigError("objective 'elbo' needs a kernel with independent coordinates, not spherical_epanechnikov")
    if objective == "elbo" and prior == "uniform":
        raise ConfigError(
            "objective 'elbo' needs prior 'gaussian': the posterior's support exceeds a uniform prior's, and its KL is "
            "infinite"
        )


def _check_learnable(objective: str, **values: object) -> None:
    for name, value in values.items():
        if objective == "penalty" and str(value).startswith("learned"):
            raise ConfigError(f"{name} 'learned' needs objective 'elbo': the penalty has no minimum in it")


def _pick(choices: Collection[_Name], option: str, name: _Name) -> _Name:
    """``name``, if it is one of the choices."""
    if name not in choices:
        raise ConfigError(f"unknown {option} {name!r}; known: {', '.join(sorted(choices))}")
    return name
