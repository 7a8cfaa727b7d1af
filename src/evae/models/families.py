"""EVAE and the models it is compared with: each names its hyperparameters, its posterior, its prior and its objective.

All of them take ``image_shape``, (channels, size, size), of images in [0, 1], or (columns,) of rows of standardised
numbers, and the hyperparameters of ``Networks``; they raise ConfigError for values out of range, unknown names,
settings without an optimum and shapes without a network.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.checks import not_negative, one_of, positive, whole_number
from evae.distributions import (
    KERNELS,
    Kernel,
    MultivariateStudentT,
    PowerSpherical,
    SphericalEpanechnikov,
    VonMisesFisher,
)
from evae.distributions.bounded import POWERS
from evae.errors import ConfigError
from evae.models.encoders import (
    BoundedEncoder,
    KernelEncoder,
    NormalEncoder,
    PointEncoder,
    SphereEncoder,
    StudentEncoder,
)
from evae.models.family import Family, Networks
from evae.models.networks import ImageShape, check_shape
from evae.models.objectives import (
    Elbo,
    GammaPower,
    ImportanceWeighted,
    IwaeGradient,
    KernelPenalty,
    MmdPenalty,
    NoPenalty,
    Regularisation,
    RegularisedDecoder,
    VampElbo,
)
from evae.models.priors import KernelPrior, NormalPrior, SphericalPrior, StudentPrior, UniformPrior, VampPrior

PAPER_BANDWIDTH = 100 ** (-2 / 9)  # b(100), about 0.3594
PAPER_SUPPORT_LENGTH = 0.1
PAPER_N = 100

_BOUNDED = {name: kernel for name, kernel in KERNELS.items() if kernel.bounded}
_KERNELS: dict[str, type[Kernel | SphericalEpanechnikov]] = {
    **KERNELS,
    "spherical_epanechnikov": SphericalEpanechnikov,
}


class EVAE(Family):
    """The kernel-based VAE of arXiv 2405.12783: z = b·(μ(x) + r(x)·K) + U, U a draw from the prior.

    By default it minimises eq. (10), -ln p(x|z) + B·I(K)/n per latent, for the Epanechnikov kernel 3B/(5n) Σ 1/r. Three
    properties of it: μ is trained by the reconstruction alone; B/n has the role of β in a β-VAE, and at B = 0.1,
    n = 100 it is very small; and it is no bound on -ln p(x), since the posterior's support exceeds a uniform prior's.
    With ``prior="gaussian", objective="elbo"`` it minimises the exact negative ELBO instead (docs/objective.md).

    Args:
        latent_dim: d, the number of latents.
        kernel: uniform, epanechnikov, biweight, triweight, triangular, tricube, cosine, gaussian, logistic, laplace or
            student (4 degrees of freedom); or, with the penalty, spherical_epanechnikov, the radially symmetric kernel
            in d dimensions.
        bandwidth: b > 0 (the paper's b(100) = 100^(-2/9)); or "bickel-rosenblatt" for m^(-2/9); or, with the elbo,
            "learned" for one b, "learned-per-latent" for one for each latent.
        support_length: B > 0, length of the uniform prior's support (its standard deviation is B/√12), or standard
            deviation of the Gaussian prior; or, with the elbo, "learned".
        prior: "uniform" or "gaussian".
        objective: "penalty" (eq. 10) or "elbo".
        n: eq. (10)'s M. None: the global batch size under `evae train`, else the paper's 100.
        m: sample size of the "bickel-rosenblatt" bandwidth.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        kernel: str = "epanechnikov",
        bandwidth: float | Literal["bickel-rosenblatt", "learned", "learned-per-latent"] = PAPER_BANDWIDTH,
        support_length: float | Literal["learned"] = PAPER_SUPPORT_LENGTH,
        prior: Literal["uniform", "gaussian"] = "uniform",
        objective: Literal["penalty", "elbo"] = "penalty",
        n: float | None = None,
        m: float = 100,
        **shared: Unpack[Networks],
    ) -> None:
        kernel_class = _KERNELS[one_of("kernel", kernel, _KERNELS)]
        is_elbo = one_of("objective", objective, ("penalty", "elbo")) == "elbo"
        is_gaussian = one_of("prior", prior, ("uniform", "gaussian")) == "gaussian"
        _check_objective(is_elbo, is_gaussian, kernel_class, bandwidth=bandwidth, support_length=support_length)
        penalty = KernelPenalty(n=positive("n", PAPER_N if n is None else n))
        is_learned = support_length == "learned"
        length = PAPER_SUPPORT_LENGTH if is_learned else positive("support_length", support_length)  # type: ignore[arg-type]
        p = NormalPrior(latent_dim, length, is_learned) if is_gaussian else UniformPrior(latent_dim, length)
        posterior = partial(
            KernelEncoder,
            kernel=kernel_class,
            prior=p,
            bandwidth=_bandwidth(bandwidth, positive("m", m)),
            learned_bandwidths={"learned": 1, "learned-per-latent": latent_dim}.get(str(bandwidth), 0),
        )
        super().__init__(image_shape, latent_dim, posterior, p, Elbo() if is_elbo else penalty, **shared)
        self._is_n_open = n is None and not is_elbo

    def prepare(self, images: Callable[[int], Tensor], batch_size: int) -> None:
        """Set eq. (10)'s M to the batch size, unless n was given."""
        if self._is_n_open and "n" in self._hyperparameters:
            self.objective = KernelPenalty(n=float(batch_size))
            self._hyperparameters["n"] = float(batch_size)


def _bandwidth(bandwidth: float | str, m: float) -> float:
    """b, or the value that a learned b starts from."""
    if bandwidth == "bickel-rosenblatt":
        return m ** (-2 / 9)
    return PAPER_BANDWIDTH if str(bandwidth).startswith("learned") else positive("bandwidth", bandwidth)  # type: ignore[arg-type]


def _check_objective(is_elbo: bool, is_gaussian: bool, kernel: type, **values: object) -> None:
    if is_elbo and not issubclass(kernel, Kernel):
        raise ConfigError("objective 'elbo' needs a kernel with independent coordinates, not spherical_epanechnikov")
    if is_elbo and not is_gaussian:
        reason = "the posterior's support exceeds a uniform prior's, and its KL is infinite"
        raise ConfigError(f"objective 'elbo' needs prior 'gaussian': {reason}")
    for name, value in values.items():
        if not is_elbo and str(value).startswith("learned"):
            reason = "the penalty alone can be driven to 0, so it has no optimum"
            raise ConfigError(f"{name}={value!r} requires objective='elbo' ({reason})")


class GaussianVAE(Family):
    """The variational autoencoder of Kingma and Welling (2014): Gaussian posterior, standard normal prior, ELBO.

    Args:
        latent_dim: d, the number of latents.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int = 64, **shared: Unpack[Networks]) -> None:
        super().__init__(image_shape, latent_dim, NormalEncoder, NormalPrior(latent_dim), Elbo(), **shared)


class BetaVAE(Family):
    """A GaussianVAE whose KL is multiplied by β (Higgins et al., ICLR 2017).

    β above 1, as in their paper, favours independent latents; the paper of EVAE compares β = 0.1, and 5.

    Args:
        latent_dim: d, the number of latents.
        beta: β > 0; at 1 the model is a GaussianVAE, below 1 its loss is no bound on -ln p(x).
    """

    def __init__(
        self, image_shape: ImageShape, latent_dim: int = 64, beta: float = 4.0, **shared: Unpack[Networks]
    ) -> None:
        objective = Elbo(weight=positive("beta", beta))
        super().__init__(image_shape, latent_dim, NormalEncoder, NormalPrior(latent_dim), objective, **shared)


class IWAE(Family):
    """The importance-weighted autoencoder, a GaussianVAE that maximises the k-sample bound (Burda et al., ICLR 2016).

    Its loss is the negative bound itself, which is below reconstruction + kl.

    Args:
        latent_dim: d, the number of latents.
        samples: k, posterior samples for each image; the decoder's work grows with it.
        gradient: "standard", or "doubly-reparameterised" (Tucker et al., ICLR 2019), of less noise for the encoder.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        samples: int = 5,
        gradient: IwaeGradient = "standard",
        **shared: Unpack[Networks],
    ) -> None:
        gradient = one_of("gradient", gradient, get_args(IwaeGradient))
        objective = ImportanceWeighted(whole_number("samples", samples), gradient)
        super().__init__(image_shape, latent_dim, NormalEncoder, NormalPrior(latent_dim), objective, **shared)


class VampVAE(Family):
    """A GaussianVAE whose prior is the mixture of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018).

    ``prepare`` initialises the pseudo-inputs, else noise, from training images. The KL is estimated from one draw,
    hence "monte_carlo_kl". Every step encodes all pseudo-inputs.

    Args:
        latent_dim: d, the number of latents.
        pseudo_inputs: K, the number of components.
    """

    def __init__(
        self, image_shape: ImageShape, latent_dim: int = 64, pseudo_inputs: int = 500, **shared: Unpack[Networks]
    ) -> None:
        prior = partial(VampPrior, image_shape=image_shape, pseudo_inputs=whole_number("pseudo_inputs", pseudo_inputs))
        super().__init__(image_shape, latent_dim, NormalEncoder, prior, VampElbo(), **shared)

    @torch.no_grad()
    def prepare(self, images: Callable[[int], Tensor], batch_size: int) -> None:
        """Initialise the pseudo-inputs from training images."""
        pseudo_inputs = self.prior.get_parameter("pseudo_inputs")
        pseudo_inputs.copy_(images(len(pseudo_inputs)))


class BoundedVAE(Family):
    """Compact support with a bound on ln p(x): kernel posteriors K(μ(x), r(x)) inside the support of the prior.

    The prior is uniform on [-B/2, B/2]^d, or the kernel itself on it, K(0, B/2). The posterior's support never leaves
    it, so that KL(q‖p) is finite and exact: ln(B/r) - H(K) per latent for the uniform prior. With a uniform prior a
    latent that is not used costs ln 2 - H(K), 0.125 nats for the Epanechnikov kernel, with the kernel's prior nothing.
    Unlike EVAE's objective, reconstruction + kl is a negative ELBO, and codes fill the prior (docs/objective.md).

    Args:
        latent_dim: d, the number of latents.
        kernel: uniform, epanechnikov, biweight, triweight, triangular, tricube or cosine.
        support_length: B > 0, of the prior's support in each latent; a matter of units alone.
        prior: "uniform"; or "kernel", for the first four kernels.
        weight: of the KL, as in a BetaVAE; at 1 the loss is the negative ELBO.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        kernel: str = "epanechnikov",
        support_length: float = 2.0,
        prior: Literal["uniform", "kernel"] = "uniform",
        weight: float = 1.0,
        **shared: Unpack[Networks],
    ) -> None:
        kernel_class = _BOUNDED[one_of("kernel", kernel, _BOUNDED)]
        length = positive("support_length", support_length)
        p: UniformPrior | KernelPrior = UniformPrior(latent_dim, length)
        if one_of("prior", prior, ("uniform", "kernel")) == "kernel":
            if kernel_class not in POWERS:
                known = ", ".join(name for name, k in _BOUNDED.items() if k in POWERS)
                raise ConfigError(f"prior 'kernel' is for the kernels {known}, not {kernel}; use prior 'uniform'")
            p = KernelPrior(latent_dim, length, kernel_class)
        posterior = partial(BoundedEncoder, kernel=kernel_class, prior=p)
        super().__init__(image_shape, latent_dim, posterior, p, Elbo(weight=positive("weight", weight)), **shared)


class WAE(Family):
    """The Wasserstein autoencoder with MMD: a deterministic encoder and N(0, 1) codes (Tolstikhin et al., ICLR 2018).

    Their cost is the squared error, which ``likelihood="gaussian"`` resembles; the default is the cross-entropy of the
    paper's comparison. It has no posterior density, so no bound on ln p(x).

    Args:
        latent_dim: d, the number of latents.
        weight: λ > 0 of the MMD; theirs is 10 for MNIST, 100 for CelebA.
        scales: of the inverse multiquadratic kernels C/(C + ‖x - y‖²), C = 2d·scale.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        weight: float = 10.0,
        scales: Sequence[float] = MmdPenalty.scales,
        **shared: Unpack[Networks],
    ) -> None:
        if not scales:
            raise ConfigError("scales must hold at least one positive number")
        objective = MmdPenalty([positive("scales", scale) for scale in scales], weight=positive("weight", weight))
        super().__init__(image_shape, latent_dim, PointEncoder, NormalPrior(latent_dim), objective, **shared)


class AE(Family):
    """A plain autoencoder: a deterministic encoder, no noise, no penalty; its loss is -ln p(x|z).

    Nothing in its training draws the codes to a prior. ``prior()`` is N(0, 1), and samples from it are of no use:
    fit a prior to the codes first, `evae fit-prior`. It has no posterior density, so no bound on ln p(x).

    Args:
        latent_dim: d, the number of latents.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int = 64, **shared: Unpack[Networks]) -> None:
        super().__init__(image_shape, latent_dim, PointEncoder, NormalPrior(latent_dim), NoPenalty(), **shared)


class RAE(Family):
    """The regularised autoencoder: no noise, small codes and a regularised decoder (Ghosh et al., ICLR 2020).

    It minimises -ln p(x|z) + weight_code · ½‖z‖² + decoder_decay · R(D). Their likelihood is the squared error, which
    ``likelihood="gaussian"`` resembles; the default is that of the other families. The default weights are theirs for
    MNIST, 1e-4 and 1e-7 of means over pixels and latents, as weights of sums. Samples need a prior fitted to the codes,
    `evae fit-prior`; N(0, 1) is what ``prior()`` returns. It has no posterior density, so no bound on ln p(x).

    Args:
        latent_dim: d, the number of latents.
        weight_code: β, at least 0, of half the code's squared norm.
        decoder_decay: λ, at least 0, of the decoder's regularisation R(D).
        regularisation: R(D): "l2", the sum of the decoder's squared weights, or "gradient-penalty", the squared norm of
            the derivative of the decoded image in the code.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        weight_code: float = 0.01,
        decoder_decay: float = 1e-4,
        regularisation: Regularisation = "l2",
        **shared: Unpack[Networks],
    ) -> None:
        objective = RegularisedDecoder(
            one_of("regularisation", regularisation, get_args(Regularisation)),
            not_negative("decoder_decay", decoder_decay),
            weight=not_negative("weight_code", weight_code),
        )
        super().__init__(image_shape, latent_dim, PointEncoder, NormalPrior(latent_dim), objective, **shared)


class T3VAE(Family):
    """Student's t in prior, posterior and likelihood, trained by a γ-power divergence (t³VAE, Kim et al., ICLR 2024).

    The prior is t(0, I, ν) in R^d, the likelihood t(m(z), (ν + ‖z‖²)/(ν + d)·σ² I, ν + d), the posterior t(μ(x), Σ(x)·
    ν/(ν + n), ν + n), n the number of pixels or columns: their joint has tails of a power. Its loss is no bound on
    -ln p(x); σ is ``likelihood_scale``, 1 unless it is given.

    Args:
        latent_dim: d, the number of latents.
        df: ν > 2, degrees of freedom of the prior; the less, the heavier the tails.
    """

    def __init__(
        self, image_shape: ImageShape, latent_dim: int = 64, df: float = 10.0, **shared: Unpack[Networks]
    ) -> None:
        if positive("df", df) <= 2:
            raise ConfigError(f"df must be above 2, where Student's t has a variance, not {df}")
        if shared.get("likelihood", "auto") not in ("auto", "student"):
            raise ConfigError("T3VAE's likelihood is Student's t; leave out --model.likelihood")
        sigma = shared.get("likelihood_scale")
        sigma = 1.0 if sigma is None else positive("likelihood_scale", sigma)
        size = math.prod(check_shape(image_shape))
        own: Networks = {"likelihood": "gaussian", "likelihood_scale": sigma}  # for the mean; see ``likelihood``
        encoder, prior = partial(StudentEncoder, df=df), StudentPrior(latent_dim, df)
        objective = GammaPower(float(df), sigma, size)
        super().__init__(image_shape, latent_dim, encoder, prior, objective, **(shared | own))
        self.df, self.sigma = float(df), sigma

    def likelihood(self, latents: Tensor) -> Distribution:
        """p(x|z) for latents (N, d), batch shape (N,): its scale grows with ‖z‖."""
        mean = super().likelihood(latents).mean
        size = latents.shape[-1]
        scale = self.sigma * ((self.df + latents.square().sum(-1)) / (self.df + size)).sqrt().to(mean)
        events = mean.ndim - 1
        return MultivariateStudentT(self.df + size, mean, scale.view(-1, *[1] * events), events, validate_args=False)


class HypersphericalVAE(Family):
    """Latents on a sphere (Davidson et al., UAI 2018, as S-VAE): von Mises-Fisher posterior, uniform prior, ELBO.

    The paper of EVAE calls it HVAE, which is an alias here; elsewhere HVAE is the Hamiltonian VAE.

    Its latents are points of the unit sphere of R^d; ``encode`` gives the posterior's mean direction.

    Args:
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
    """

    posterior_family: ClassVar[type[VonMisesFisher | PowerSpherical]] = VonMisesFisher

    def __init__(self, image_shape: ImageShape, latent_dim: int = 64, **shared: Unpack[Networks]) -> None:
        whole_number("latent_dim", latent_dim, least=2)
        encoder = partial(SphereEncoder, posterior=self.posterior_family)
        super().__init__(image_shape, latent_dim, encoder, SphericalPrior(latent_dim), Elbo(), **shared)

    def code(self, q: Distribution) -> Tensor:
        """The mean direction: the mean is inside the sphere, where the decoder is not trained."""
        return q.mode


HVAE = HypersphericalVAE


class PowerSphericalVAE(HypersphericalVAE):
    """A HypersphericalVAE with the power spherical posterior, which is drawn without rejection (De Cao and Aziz 2020).

    Args:
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
    """

    posterior_family = PowerSpherical


FAMILIES: dict[str, type[Family]] = {
    family.__name__: family
    for family in (
        *(EVAE, BoundedVAE, GaussianVAE, BetaVAE, IWAE, VampVAE, T3VAE, WAE, AE, RAE),
        *(HypersphericalVAE, PowerSphericalVAE),
    )
}
ALIASES = {"HVAE": "HypersphericalVAE"}  # names that --model and older runs may have
