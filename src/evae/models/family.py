"""The base of the families: the hyperparameters that all of them share, set once."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from evae.checks import one_of, whole_number
from evae.models.custom import OwnNetwork, resolve_network
from evae.models.likelihoods import make_likelihood
from evae.models.networks import ImageShape, architecture, check_decoder, check_shape, is_row
from evae.models.vae import VAE, Objective

_ROUNDING = 1e-4  # that values may be outside [0, 1]

Likelihood = Literal["auto", "bernoulli", "continuous_bernoulli", "gaussian", "student"]
NetworksName = Literal["auto", "paper", "rae", "mlp"]


class Networks(TypedDict, total=False):
    """Hyperparameters of every family, besides latent_dim.

    Args:
        likelihood: of images "bernoulli" (the default, and the paper's), "continuous_bernoulli", "gaussian" or
            "student"; of rows of numbers "gaussian" (the default) or "student", Student's t.
        likelihood_scale: the standard deviation of "gaussian", the scale of "student", in standardised units of the
            columns, or in [0, 1] of images; default: learned, one for each column, or for all pixels.
        networks: of images "paper" (the default) for those of the paper's Appendix C, or "rae" for the larger ones of
            the regularised autoencoder (Ghosh et al., ICLR 2020); "mlp", the default of rows of numbers.
        widths: of the hidden layers of "mlp", from the input on; the decoder has them in reverse (default: 256, 256).
        encoder: instead of their body, an import path "package.module:function" of a function from (C, H, W), or
            (F,), to a module from images or rows to features (N, features); from Python also the function, or such a
            module.
        decoder: instead of theirs, an import path of a function from (C, H, W), or (F,), and d to a module from latents
            (N, d) to maps of the images' or rows' shape; from Python also the function, or such a module.
    """

    likelihood: Likelihood
    likelihood_scale: float | None
    networks: NetworksName
    widths: Sequence[int] | None
    encoder: OwnNetwork
    decoder: OwnNetwork


class Family(VAE):
    """A VAE whose networks are chosen by hyperparameters; ConfigError for values that cannot work.

    Args:
        image_shape: (channels, size, size), values in [0, 1]; or (columns,), standardised values.
        latent_dim: d, the number of latents.
        posterior: from (body, image_shape, latent_dim) to the encoder.
        prior: the prior, or a function from the encoder to it.
        objective: (model, images, divergence_weight) to Terms.
        likelihood, likelihood_scale, networks, widths, encoder, decoder: see ``Networks``.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: int,
        posterior: Callable[[nn.Module, ImageShape, int], nn.Module],
        prior: nn.Module | Callable[[nn.Module], nn.Module],
        objective: Objective,
        likelihood: Likelihood = "auto",
        likelihood_scale: float | None = None,
        networks: NetworksName = "auto",
        widths: Sequence[int] | None = None,
        encoder: OwnNetwork = None,
        decoder: OwnNetwork = None,
    ) -> None:
        image_shape = check_shape(image_shape)
        whole_number("latent_dim", latent_dim)
        one_of("likelihood", likelihood, get_args(Likelihood))
        one_of("networks", networks, get_args(NetworksName))
        if likelihood == "auto":
            likelihood = "gaussian" if is_row(image_shape) else "bernoulli"
        if networks == "auto":
            networks = "mlp" if is_row(image_shape) else "paper"
        chosen = {"likelihood": likelihood, "networks": networks}
        self._hyperparameters |= {k: v for k, v in chosen.items() if self._hyperparameters.get(k) == "auto"}
        pixels = make_likelihood(likelihood, image_shape, likelihood_scale)
        defaults = architecture(networks, widths)
        q = posterior(resolve_network("encoder", encoder, defaults.encoder, image_shape), image_shape, latent_dim)
        maps = resolve_network("decoder", decoder, defaults.decoder, image_shape, latent_dim)
        if decoder is not None:
            check_decoder(maps, image_shape, latent_dim)
        p = prior if isinstance(prior, nn.Module) else prior(q)
        super().__init__(image_shape, q, p, maps, pixels, objective)
        self._has_checked = False

    def check_images(self, images: object) -> None:
        """Raise ConfigError unless they are floating point: images (N, C, H, W) in [0, 1], or finite rows (N, F).

        Values are looked at on the CPU; on another device, which would have to be waited for, only the first time.
        """
        super().check_images(images)
        assert isinstance(images, Tensor)
        if not len(images) or self._has_checked or torch.compiler.is_compiling():
            return
        with suppress(RuntimeError):  # of transforms of functions, as vmap, whose tensors have no values yet
            low, high = (float(value) for value in images.detach().aminmax())
            if self.is_row and not math.isfinite(high - low):
                raise self.wrong_images("values that are missing or infinite")
            if not self.is_row and (low < -_ROUNDING or high > 1 + _ROUNDING):
                given = f"values from {low:.4g} to {high:.4g}"
                raise self.wrong_images(f"{given}; scale them, and leave out a normalisation by mean and deviation")
        self._has_checked = images.device.type != "cpu"
