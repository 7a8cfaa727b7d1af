"""EVAE, the model of arXiv 2405.12783."""

from collections.abc import Callable
from functools import partial
from typing import Literal, Unpack

from torch import Tensor, nn

from evae.checks import one_of, positive
from evae.distributions import KERNELS, Kernel, SphericalEpanechnikov
from evae.errors import ConfigError
from evae.models.encoders import KernelEncoder
from evae.models.family import Family, Networks
from evae.models.networks import ImageShape
from evae.models.objectives import Elbo, KernelPenalty
from evae.models.priors import NormalPrior, UniformPrior

PAPER_BANDWIDTH = 100 ** (-2 / 9)  # b(100), about 0.3594
PAPER_SUPPORT_LENGTH = 0.1
PAPER_N = 100

_KERNELS: dict[str, type[Kernel] | type[SphericalEpanechnikov]] = {
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
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        kernel: uniform, epanechnikov, biweight, triweight, triangular, tricube, cosine, gaussian, logistic or laplace;
            or, with the penalty, spherical_epanechnikov, the radially symmetric kernel in d dimensions.
        bandwidth: b > 0 (the paper's b(100) = 100^(-2/9)); or "bickel-rosenblatt" for m^(-2/9); or, with the elbo,
            "learned" for one b, "learned-per-latent" for one for each latent.
        support_length: B > 0, length of the uniform prior's support, or standard deviation of the Gaussian prior; or,
            with the elbo, "learned".
        prior: "uniform" or "gaussian".
        objective: "penalty" (eq. 10) or "elbo".
        n: eq. (10)'s M. None: the global batch size under `evae train`, else the paper's 100.
        m: sample size of the "bickel-rosenblatt" bandwidth.
        networks: likelihood, encoder, decoder; see ``Networks``.

    Raises:
        ConfigError: a value outside its range, an unknown name, settings without an optimum, or an image shape without
            a network.
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
        **networks: Unpack[Networks],
    ) -> None:
        kernel_class = _KERNELS[one_of("kernel", kernel, _KERNELS)]
        _check_objective(one_of("objective", objective, ("penalty", "elbo")), prior, kernel_class)
        _check_learnable(objective, bandwidth=bandwidth, support_length=support_length)
        terms = KernelPenalty(n=positive("n", PAPER_N if n is None else n))
        p = _prior(one_of("prior", prior, ("uniform", "gaussian")), latent_dim, support_length)
        posterior = partial(
            KernelEncoder,
            kernel=kernel_class,
            prior=p,
            bandwidth=_bandwidth(bandwidth, positive("m", m)),
            learned_bandwidths={"learned": 1, "learned-per-latent": latent_dim}.get(str(bandwidth), 0),
        )
        super().__init__(
            image_shape, latent_dim, posterior, lambda _: p, terms if objective == "penalty" else Elbo(), **networks
        )
        self._is_n_open = n is None and objective == "penalty"

    def prepare(self, images: Callable[[int], Tensor], batch_size: int) -> None:
        """Set eq. (10)'s M to the batch size, unless n was given."""
        if self._is_n_open and "n" in self._hyperparameters:
            self.objective = KernelPenalty(n=float(batch_size))
            self._hyperparameters["n"] = float(batch_size)


def _prior(name: str, latent_dim: int, support_length: float | str) -> nn.Module:
    learned = support_length == "learned"
    length = PAPER_SUPPORT_LENGTH if learned else positive("support_length", support_length)  # type: ignore[arg-type]
    return UniformPrior(latent_dim, length) if name == "uniform" else NormalPrior(latent_dim, length, learned)


def _bandwidth(bandwidth: float | str, m: float) -> float:
    """b, or the value that a learned b starts from."""
    if bandwidth == "bickel-rosenblatt":
        return m ** (-2 / 9)
    return PAPER_BANDWIDTH if str(bandwidth).startswith("learned") else positive("bandwidth", bandwidth)  # type: ignore[arg-type]


def _check_objective(objective: str, prior: str, kernel: type) -> None:
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
            raise ConfigError(
                f"{name}={value!r} requires objective='elbo' (the penalty alone can be driven to 0, so it has no "
                "optimum)"
            )
