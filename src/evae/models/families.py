"""The models EVAE is compared with: each names its hyperparameters, its posterior, its prior and its objective."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Unpack, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from evae.checks import one_of, positive, whole_number
from evae.distributions import PowerSpherical, VonMisesFisher
from evae.errors import ConfigError
from evae.models.encoders import NormalEncoder, PointEncoder, SphereEncoder
from evae.models.evae import EVAE
from evae.models.family import Family, Networks
from evae.models.networks import ImageShape
from evae.models.objectives import Elbo, ImportanceWeighted, IwaeGradient, MmdPenalty, VampElbo
from evae.models.priors import NormalPrior, SphericalPrior, VampPrior


class GaussianVAE(Family):
    """The variational autoencoder of Kingma and Welling (2014): Gaussian posterior, standard normal prior, ELBO.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    def __init__(self, image_shape: ImageShape, latent_dim: int = 64, **networks: Unpack[Networks]) -> None:
        super().__init__(image_shape, latent_dim, NormalEncoder, lambda _: NormalPrior(latent_dim), Elbo(), **networks)


class BetaVAE(Family):
    """A GaussianVAE whose KL is multiplied by β (Higgins et al., ICLR 2017).

    β above 1, as in their paper, favours independent latents; the paper of EVAE compares β = 0.1, and 5.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        beta: β > 0; at 1 the model is a GaussianVAE, below 1 its loss is no bound on -ln p(x).
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    def __init__(
        self, image_shape: ImageShape, latent_dim: int = 64, beta: float = 4.0, **networks: Unpack[Networks]
    ) -> None:
        objective = Elbo(weight=positive("beta", beta))
        super().__init__(
            image_shape, latent_dim, NormalEncoder, lambda _: NormalPrior(latent_dim), objective, **networks
        )


class IWAE(Family):
    """The importance-weighted autoencoder, a GaussianVAE that maximises the k-sample bound (Burda et al., ICLR 2016).

    Its loss is the negative bound itself, which is below reconstruction + kl.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        samples: k, posterior samples for each image; the decoder's work grows with it.
        gradient: "standard", or "doubly-reparameterised" (Tucker et al., ICLR 2019), of less noise for the encoder.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        samples: int = 5,
        gradient: IwaeGradient = "standard",
        **networks: Unpack[Networks],
    ) -> None:
        one_of("gradient", gradient, get_args(IwaeGradient))
        objective = ImportanceWeighted(whole_number("samples", samples), gradient)
        super().__init__(
            image_shape, latent_dim, NormalEncoder, lambda _: NormalPrior(latent_dim), objective, **networks
        )


class VampVAE(Family):
    """A GaussianVAE whose prior is the mixture of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018).

    The pseudo-inputs are initialised from training images by ``prepare``, from noise without it. Its KL is estimated
    from one draw, hence "monte_carlo_kl". Every step encodes all pseudo-inputs.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        pseudo_inputs: K, the number of components.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    def __init__(
        self, image_shape: ImageShape, latent_dim: int = 64, pseudo_inputs: int = 500, **networks: Unpack[Networks]
    ) -> None:
        prior = partial(VampPrior, image_shape=image_shape, pseudo_inputs=whole_number("pseudo_inputs", pseudo_inputs))
        super().__init__(image_shape, latent_dim, NormalEncoder, prior, VampElbo(), **networks)

    @torch.no_grad()
    def prepare(self, images: Callable[[int], Tensor], batch_size: int) -> None:
        """Initialise the pseudo-inputs from training images."""
        pseudo_inputs = self.prior.get_parameter("pseudo_inputs")
        pseudo_inputs.copy_(images(len(pseudo_inputs)))


class WAE(Family):
    """The Wasserstein autoencoder with MMD: a deterministic encoder and N(0, 1) codes (Tolstikhin et al., ICLR 2018).

    Their cost is the squared error, which ``likelihood="gaussian"`` resembles; the default is the cross-entropy of the
    paper's comparison. It has no posterior density, so no bound on ln p(x).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        weight: λ > 0 of the MMD; theirs is 10 for MNIST, 100 for CelebA.
        scales: of the inverse multiquadratic kernels C/(C + ‖x - y‖²), C = 2d·scale.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int = 64,
        weight: float = 10.0,
        scales: Sequence[float] = MmdPenalty.scales,
        **networks: Unpack[Networks],
    ) -> None:
        if not scales:
            raise ConfigError("scales must hold at least one positive number")
        objective = MmdPenalty([positive("scales", scale) for scale in scales], weight=positive("weight", weight))
        super().__init__(
            image_shape, latent_dim, PointEncoder, lambda _: NormalPrior(latent_dim), objective, **networks
        )


class HVAE(Family):
    """The hyperspherical VAE (Davidson et al., UAI 2018, as S-VAE): von Mises-Fisher posterior, uniform prior, ELBO.

    Its latents are points of the unit sphere of R^d; ``encode`` gives the posterior's mean direction.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    posterior_family: ClassVar[type[VonMisesFisher] | type[PowerSpherical]] = VonMisesFisher

    def __init__(self, image_shape: ImageShape, latent_dim: int = 64, **networks: Unpack[Networks]) -> None:
        whole_number("latent_dim", latent_dim, least=2)
        encoder = partial(SphereEncoder, posterior=self.posterior_family)
        super().__init__(image_shape, latent_dim, encoder, lambda _: SphericalPrior(latent_dim), Elbo(), **networks)

    def code(self, q: Distribution) -> Tensor:
        """The mean direction: the mean is inside the sphere, where the decoder is not trained."""
        return q.mode


class PowerSphericalVAE(HVAE):
    """An HVAE with the power spherical posterior, which is drawn without rejection (De Cao and Aziz 2020).

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, at least 2, of the space around the sphere, which has d - 1 dimensions itself.
        networks: likelihood, encoder, decoder; see ``Networks``.
    """

    posterior_family = PowerSpherical


FAMILIES: dict[str, type[Family]] = {
    family.__name__: family for family in (EVAE, GaussianVAE, BetaVAE, IWAE, VampVAE, WAE, HVAE, PowerSphericalVAE)
}
