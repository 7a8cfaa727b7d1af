"""A variational autoencoder: encoder, prior, decoder, likelihood and objective; and what an objective is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from evae.checks import one_of
from evae.errors import ConfigError
from evae.models.networks import ImageShape, evaluated, is_row
from evae.models.pretrained import Pretrained

Latents = Literal["sample", "mean"]
Prior = Literal["auto", "fitted", "model"]


class Terms(NamedTuple):
    """Per-image loss terms of a batch, and the loss to minimise.

    Attributes:
        reconstruction: -ln p(x|z) in nats, shape (N,).
        divergence: divergence (or penalty) between posterior and prior, before any weight, shape (N,); in nats, except
            a WAE's MMD, which has no unit.
        loss: the scalar to minimise: the mean of reconstruction + weight · divergence, except an IWAE's bound.
    """

    reconstruction: Tensor
    divergence: Tensor
    loss: Tensor


@dataclass
class Objective(ABC):
    """From a model and images to Terms: -ln p(x|z) + ``weight`` · divergence.

    ``divergence_name`` says whether the divergence is a "penalty", an exact "kl", a "monte_carlo_kl" or an "mmd".
    """

    _: KW_ONLY
    weight: float = 1.0
    divergence_name: ClassVar[str]

    @abstractmethod
    def divergence(self, model: "VAE", q: Distribution) -> Tensor:
        """Divergence (or penalty) between the posterior ``q`` of a batch and the prior, shape (N,)."""

    def per_dimension(self, model: "VAE", q: Distribution) -> Tensor | None:
        """The divergence of each latent, shape (N, d), where ``divergence`` is a sum over latents; else None."""
        return None

    def __call__(self, model: "VAE", images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        """The terms of images (N, C, H, W); ``divergence_weight`` is a factor on ``weight``, below 1 in KL warm-up."""
        q = model.posterior(images)
        reconstruction = -model.likelihood(q.rsample()).log_prob(images)
        divergence = self.divergence(model, q)
        return Terms(reconstruction, divergence, (reconstruction + divergence_weight * self.weight * divergence).mean())


class VAE(Pretrained):
    """Images or rows x and latents z: posterior q(z|x), prior p(z), likelihood p(x|z), the objective to minimise.

    The families (EVAE, GaussianVAE, ...) choose its parts; use it directly for parts of your own.

    Args:
        image_shape: (C, H, W) of images; or (F,) of rows of numbers, (N, F) in place of (N, C, H, W) below.
        encoder: images (N, C, H, W) in [0, 1] to a Distribution over (N, d), event shape (d,).
        prior: a module whose call returns a Distribution with event shape (d,).
        decoder: latents (N, d) to maps (N, C, H, W).
        pixels: decoder maps to a Distribution over images (N, C, H, W), event shape (C, H, W).
        objective: (model, images, divergence_weight) to Terms.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        encoder: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        pixels: nn.Module,
        objective: Objective,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.encoder, self.prior, self.decoder, self.pixels = encoder, prior, decoder, pixels
        self.objective = objective
        self._built: tuple[tuple[int, torch.device, torch.dtype], Distribution] | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def is_row(self) -> bool:
        """Whether it is a model of rows of numbers, not of images."""
        return is_row(self.image_shape)

    def posterior(self, images: Tensor) -> Distribution:
        """q(z|x), batch shape (N,) and event shape (d,); ConfigError as of ``check_images``."""
        self.check_images(images)
        return cast(Distribution, self.encoder(images))

    def check_images(self, images: object) -> None:
        """Raise ConfigError unless ``images`` are a tensor of floating point, of shape (N, C, H, W)."""
        if not isinstance(images, Tensor):
            use = "torch.as_tensor(images, dtype=torch.float32) makes a tensor of an array"
            raise self.wrong_images(f"{type(images).__name__}; {use}")
        if images.shape[1:] != self.image_shape or not images.is_floating_point():
            raise self.wrong_images(f"{images.dtype} of shape {tuple(images.shape)}")
        weights = next(self.parameters(), images).dtype
        if images.dtype != weights and torch.float64 in (images.dtype, weights):
            raise self.wrong_images(f"{images.dtype}, as its weights are {weights}; images.to({weights}) converts them")

    def wrong_images(self, given: str) -> ConfigError:
        """The error that says which images the model takes, and what was given instead."""
        what = "rows of finite floating-point numbers" if self.is_row else "floating-point images in [0, 1]"
        taken = f"{what} of shape (N, {', '.join(map(str, self.image_shape))})"
        return ConfigError(f"this {type(self).__name__} takes {taken}, not {given}")

    def likelihood(self, latents: Tensor) -> Distribution:
        """p(x|z) for latents (N, d), batch shape (N,) and event shape (C, H, W)."""
        maps = self.decoder(latents)
        return cast(Distribution, self.pixels(maps.to(torch.promote_types(maps.dtype, torch.float32))))

    def forward(self, images: Tensor, divergence_weight: float | Tensor = 1.0) -> Terms:
        """The objective's terms for images (N, C, H, W); ``divergence_weight`` is below 1 during a KL warm-up."""
        return self.objective(self, images, divergence_weight)

    def code(self, q: Distribution) -> Tensor:
        """The code (N, d) of a posterior: its mean, on a sphere its mean direction."""
        return q.mean

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's code (N, d), deterministic."""
        return self.code(self.posterior(images))

    def decode(self, latents: Tensor) -> Tensor:
        """The mean image (N, C, H, W) in [0, 1] of latents (N, d)."""
        return self.likelihood(latents).mean

    def prepare(self, images: Callable[[int], Tensor], batch_size: int) -> None:
        """Called once before training: initialise here what depends on the data or on the batch size.

        ``images`` returns a number of distinct training images, (count, C, H, W); ``batch_size`` is over all devices.
        """

    @torch.no_grad()
    def reconstruct(self, images: Tensor, latents: Latents = "mean") -> Tensor:
        """Mean images, or rows, decoded from the posterior's code, or from one sample of it; no gradient."""
        one_of("latents", latents, get_args(Latents))
        q = self.posterior(images)
        return self.decode(self.code(q) if latents == "mean" else q.sample())

    @property
    def fitted_prior(self) -> Distribution | None:
        """The distribution that evae fit-prior fitted to the codes, on the model's device; None where none was fitted.

        It has ``sample`` and, unless it is a second-stage VAE, ``log_prob``; event shape (d,).

        Raises:
            RunError: its files are damaged, or it was fitted to other weights.
        """
        if (prior := self.read_prior()) is None:
            return None
        like = next(self.parameters())
        key = (id(prior), like.device, like.dtype)
        if self._built is None or self._built[0] != key:
            self._built = key, prior.distribution(self.example_posterior, like)
        return self._built[1]

    @torch.no_grad()
    def example_posterior(self) -> Distribution:
        """The posterior of zeros, a black image, for what all posteriors of the model share."""
        black = torch.zeros(1, *self.image_shape, device=self.device).to(next(self.parameters()))
        return evaluated(self).posterior(black)

    @torch.no_grad()
    def sample(self, count: int, prior: Prior = "auto") -> Tensor:
        """Mean images (count, C, H, W) decoded from draws of the prior, no gradient; rows (count, F) with their noise.

        A row is a draw of p(x|z), in standardised units (``columns.restore`` has the data's).

        Args:
            count: number of images or rows.
            prior: "model", the one it was trained with; "fitted", that of evae fit-prior; "auto", the fitted one where
                there is one.

        Raises:
            ConfigError: no prior was fitted.
            RunError: the fitted prior is damaged, or was fitted to other weights.
        """
        fitted = None if one_of("prior", prior, get_args(Prior)) == "model" else self.fitted_prior
        if fitted is None and prior == "fitted":
            raise ConfigError(
                "no prior was fitted to this model's codes; evae fit-prior RUN does, prior='model' samples"
            )
        latents = (self.prior() if fitted is None else fitted).sample((count,))
        return self.likelihood(latents).sample() if self.is_row else self.decode(latents)
