"""Priors: modules that return the distribution of the latents, so that it moves with the model's device and type."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, Uniform

from evae.checks import whole_number
from evae.distributions import HypersphericalUniform, Kernel, MultivariateStudentT, coordinates
from evae.models.networks import ImageShape, evaluated, is_row


class _IndependentPrior(nn.Module):
    """``latent_dim`` independent coordinates with one spread: a buffer that is not saved, or exp of a parameter."""

    def __init__(self, latent_dim: int, spread: float, learned: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learned = whole_number("latent_dim", latent_dim), learned
        if learned:
            self.log_spread = nn.Parameter(torch.tensor(float(spread)).log())
        else:
            self.register_buffer("fixed_spread", torch.tensor(float(spread)), persistent=False)

    @property
    def spread(self) -> Tensor:
        """The support length B, or the standard deviation, of every coordinate, shape (d,)."""
        spread = self.log_spread.exp() if self.learned else self.get_buffer("fixed_spread")
        return spread.expand(self.latent_dim)


class UniformPrior(_IndependentPrior):
    """Uniform on [-B/2, B/2] in each of ``latent_dim`` coordinates; B is ``support_length``."""

    def __init__(self, latent_dim: int, support_length: float) -> None:
        super().__init__(latent_dim, support_length)

    def forward(self) -> Distribution:
        half = self.spread / 2
        return Independent(Uniform(-half, half, validate_args=False), 1, validate_args=False)


class KernelPrior(_IndependentPrior):
    """A bounded kernel on [-B/2, B/2] in each of ``latent_dim`` coordinates; B is ``support_length``."""

    def __init__(self, latent_dim: int, support_length: float, kernel: type[Kernel]) -> None:
        super().__init__(latent_dim, support_length)
        self.kernel = kernel

    def forward(self) -> Distribution:
        half = self.spread / 2
        return Independent(self.kernel(torch.zeros_like(half), half, validate_args=False), 1, validate_args=False)


class NormalPrior(_IndependentPrior):
    """Normal with mean 0 and standard deviation ``scale`` in each of ``latent_dim`` coordinates."""

    def __init__(self, latent_dim: int, scale: float = 1.0, learned: bool = False) -> None:
        super().__init__(latent_dim, scale, learned)

    def forward(self) -> Distribution:
        normal = Normal(torch.zeros_like(self.spread), self.spread, validate_args=False)
        return Independent(normal, 1, validate_args=False)


class StudentPrior(_IndependentPrior):
    """Student's t of vectors in R^d, with ``df`` degrees of freedom, centre 0 and scale 1 in each coordinate."""

    def __init__(self, latent_dim: int, df: float) -> None:
        super().__init__(latent_dim, 1.0)
        self.df = df

    def forward(self) -> Distribution:
        return MultivariateStudentT(self.df, torch.zeros_like(self.spread), self.spread, validate_args=False)


class SphericalPrior(nn.Module):
    """Uniform on the unit sphere of R^d."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self) -> Distribution:
        like = self.get_buffer("like")
        return HypersphericalUniform(self.latent_dim, dtype=like.dtype, device=like.device, validate_args=False)


class VampPrior(nn.Module):
    """The mixture of the posteriors of learned pseudo-inputs, (1/K) Σ_k q(z|u_k) (Tomczak and Welling 2018).

    ``encoder`` is the model's own, a NormalEncoder, and no part of this module. The K pseudo-inputs are kept within
    [0, 1], but for those of rows of numbers. By itself the prior encodes them in evaluation mode.
    """

    def __init__(self, encoder: nn.Module, image_shape: ImageShape, pseudo_inputs: int) -> None:
        super().__init__()
        self._encoder = [encoder]  # in a list, so that its weights are not saved twice
        self._is_row = is_row(image_shape)
        noise = torch.randn if self._is_row else torch.rand
        self.pseudo_inputs = nn.Parameter(noise(pseudo_inputs, *image_shape))

    @property
    def _inputs(self) -> Tensor:
        """The pseudo-inputs as the encoder is given them."""
        return self.pseudo_inputs if self._is_row else self.pseudo_inputs.clamp(0, 1)

    def forward(self) -> Distribution:
        (encoder,) = self._encoder
        return self._mixture(evaluated(encoder)(self._inputs))

    def encode_jointly(self, images: Tensor) -> tuple[Distribution, Distribution]:
        """The posterior of images (N, C, H, W), and the prior, from one pass of the encoder over both."""
        (encoder,) = self._encoder
        normal = cast(Normal, coordinates(encoder(torch.cat([images, self._inputs]))))
        sizes = len(images), len(self.pseudo_inputs)
        parts = zip(normal.loc.split(sizes), normal.scale.split(sizes), strict=True)
        posterior, components = (Independent(Normal(*p, validate_args=False), 1, validate_args=False) for p in parts)
        return posterior, self._mixture(components)

    def _mixture(self, components: Distribution) -> Distribution:
        weights = Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)), validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)
