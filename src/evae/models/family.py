"""The base of the families: the hyperparameters that all of them share, set once."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from evae.checks import one_of, whole_number
from evae.models.custom import OwnNetwork, resolve_network
from evae.models.likelihoods import LIKELIHOODS
from evae.models.networks import ARCHITECTURES, ImageShape, check_decoder, check_three_sizes
from evae.models.vae import VAE, Objective

_ROUNDING = 1e-4  # that values may be outside [0, 1]

Likelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian"]
NetworksName = Literal["paper", "rae"]


class Networks(TypedDict, total=False):
    """Hyperparameters of every family, besides latent_dim.

    Args:
        likelihood: "bernoulli" (the default, and the paper's), "continuous_bernoulli" or "gaussian".
        networks: "paper" (the default) for those of the paper's Appendix C, "rae" for the larger ones of the
            regularised autoencoder (Ghosh et al., ICLR 2020).
        encoder: instead of their body, an import path "package.module:function" of a function from (C, H, W) to
            a module from images (N, C, H, W) to features (N, F); from Python also the function, or such a module.
        decoder: instead of theirs, an import path of a function from (C, H, W) and d to a module from latents
            (N, d) to maps (N, C, H, W); from Python also the function, or such a module.
    """

    likelihood: Likelihood
    networks: NetworksName
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
        likelihood, networks, encoder, decoder: see ``Networks``.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int,
        posterior: Callable[[nn.Module, ImageShape, int], nn.Module],
        prior: nn.Module | Callable[[nn.Module], nn.Module],
        objective: Objective,
        likelihood: Likelihood = "bernoulli",
        networks: NetworksName = "paper",
        encoder: OwnNetwork = None,
        decoder: OwnNetwork = None,
    ) -> None:
        image_shape = check_three_sizes(image_shape)
        whole_number("latent_dim", latent_dim)
        pixels = LIKELIHOODS[one_of("likelihood", likelihood, LIKELIHOODS)]()
        defaults = ARCHITECTURES[one_of("networks", networks, ARCHITECTURES)]
        q = posterior(resolve_network("encoder", encoder, defaults.encoder, image_shape), image_shape, latent_dim)
        maps = resolve_network("decoder", decoder, defaults.decoder, image_shape, latent_dim)
        if decoder is not None:
            check_decoder(maps, image_shape, latent_dim)
        p = prior if isinstance(prior, nn.Module) else prior(q)
        super().__init__(image_shape, q, p, maps, pixels, objective)
        self._has_checked = False

    def check_images(self, images: object) -> None:
        """Raise ConfigError unless ``images`` are floating point in [0, 1] of shape (N, C, H, W).

        Values are looked at on the CPU; on another device, which would have to be waited for, only the first time.
        """
        super().check_images(images)
        assert isinstance(images, Tensor)
        if not len(images) or self._has_checked or torch.compiler.is_compiling():
            return
        with suppress(RuntimeError):  # of transforms of functions, as vmap, whose tensors have no values yet
            low, high = (float(value) for value in images.detach().aminmax())
            if low < -_ROUNDING or high > 1 + _ROUNDING:
                given = f"values from {low:.4g} to {high:.4g}"
                raise self.wrong_images(f"{given}; scale them, and leave out a normalisation by mean and deviation")
        self._has_checked = images.device.type != "cpu"
