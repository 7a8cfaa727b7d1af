"""Networks and families as someone might define them outside the package."""

import torch
from torch import nn

from evae import EVAE, VAE, GaussianVAE
from evae.models import Elbo
from evae.models.encoders import NormalEncoder
from evae.models.priors import NormalPrior


def body(image_shape):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU())


def small_decoder(image_shape, latent_dim):
    return nn.Sequential(nn.Linear(latent_dim, image_shape[1] * image_shape[2]), nn.Unflatten(1, image_shape))


class Body(nn.Sequential):
    def __init__(self, image_shape):
        super().__init__(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], 4))


MODULE = nn.Flatten()


def fails(image_shape):
    raise KeyError(image_shape[1])


def no_module(image_shape):
    return torch.zeros(image_shape)


def counts(image_shape):
    """Cannot be built under torch.device("meta")."""
    width = int(torch.linspace(1, 8, 3)[-1].item())
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width))


class PaperElbo(EVAE):
    """Chooses some hyperparameters of its parent, and leaves the others open."""

    def __init__(self, image_shape, width=32, **networks):
        super().__init__(image_shape, prior="gaussian", objective="elbo", **networks)
        self.width = width


class Deeper(PaperElbo):
    """Two levels, with a value that is neither named nor its parent's."""

    def __init__(self, image_shape, **options):
        self.depth = options.pop("depth", 2)
        super().__init__(image_shape, width=7, **options)


class Closed(EVAE):
    """Takes no more than it names, and passes modules to its parent."""

    def __init__(self, image_shape, latent_dim=2, n=None):
        super().__init__(
            image_shape, latent_dim, n=n, encoder=Body(image_shape), decoder=small_decoder(image_shape, latent_dim)
        )


class FixedN(EVAE):
    """Its own n is not its parent's."""

    def __init__(self, image_shape, n=None):
        super().__init__(image_shape, latent_dim=2, n=50)


class OtherN(GaussianVAE):
    """Has an n of another meaning."""

    def __init__(self, image_shape, latent_dim=2, n=None):
        super().__init__(image_shape, latent_dim)
        self.n = n


class FromParts(VAE):
    """Put together from parts."""

    def __init__(self, image_shape, latent_dim=2):
        encoder = NormalEncoder(Body(image_shape), image_shape, latent_dim)
        decoder = small_decoder(image_shape, latent_dim)
        pixels = GaussianVAE(image_shape, latent_dim).pixels
        super().__init__(image_shape, encoder, NormalPrior(latent_dim), decoder, pixels, Elbo())
