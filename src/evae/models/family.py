"""The base of the families: the hyperparameters that all of them share, set once."""

from collections.abc import Callable
from typing import Literal, TypedDict

from torch import nn

from evae.checks import one_of, whole_number
from evae.models.custom import OwnNetwork, resolve_network
from evae.models.likelihoods import LIKELIHOODS
from evae.models.networks import ConvDecoder, ConvEncoder, ImageShape, check_decoder, check_three_sizes
from evae.models.vae import VAE, Objective

Likelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian"]


class Networks(TypedDict, total=False):
    """Hyperparameters of every family, besides latent_dim.

    Args:
        likelihood: "bernoulli" (the default, and the paper's), "continuous_bernoulli" or "gaussian".
        encoder: instead of Appendix C's body, an import path "package.module:function" of a function from (C, H, W) to
            a module from images (N, C, H, W) to features (N, F); from Python also the function, or such a module.
        decoder: instead of Appendix C's, an import path of a function from (C, H, W) and d to a module from latents
            (N, d) to maps (N, C, H, W); from Python also the function, or such a module.
    """

    likelihood: Likelihood
    encoder: OwnNetwork
    decoder: OwnNetwork


class Family(VAE):
    """A VAE whose networks are chosen by hyperparameters; ConfigError for values that cannot work.

    Args:
        image_shape: (channels, size, size), values in [0, 1].
        latent_dim: d, the number of latents.
        posterior: from (body, image_shape, latent_dim) to the encoder.
        prior: the prior, or a function from the encoder to it.
        objective: (model, images, divergence_weight) to Terms.
        likelihood, encoder, decoder: see ``Networks``.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int,
        posterior: Callable[[nn.Module, ImageShape, int], nn.Module],
        prior: nn.Module | Callable[[nn.Module], nn.Module],
        objective: Objective,
        likelihood: Likelihood = "bernoulli",
        encoder: OwnNetwork = None,
        decoder: OwnNetwork = None,
    ) -> None:
        image_shape = check_three_sizes(image_shape)
        whole_number("latent_dim", latent_dim)
        pixels = LIKELIHOODS[one_of("likelihood", likelihood, LIKELIHOODS)]()
        q = posterior(resolve_network("encoder", encoder, ConvEncoder, image_shape), image_shape, latent_dim)
        maps = resolve_network("decoder", decoder, ConvDecoder, image_shape, latent_dim)
        if decoder is not None:
            check_decoder(maps, image_shape, latent_dim)
        p = prior if isinstance(prior, nn.Module) else prior(q)
        super().__init__(image_shape, q, p, maps, pixels, objective)
