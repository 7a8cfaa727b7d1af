"""The second stage of Dai and Wipf (ICLR 2019): a VAE of the codes, whose draws replace those of the first prior."""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size


class _ResidualMlp(nn.Module):
    """``depth`` layers of ``width`` ReLU units; the outputs are linear in the last of them and in the inputs."""

    def __init__(self, inputs: int, outputs: int, depth: int, width: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.last = nn.Linear(inputs + width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(torch.cat([inputs, x], -1))


class SecondStage(nn.Module):
    r"""A VAE of codes z: u ~ N(0, I) in R^d, z ~ N(f(u), γ² I), with q(u|z) Gaussian and γ learned.

    Encoder and decoder are MLPs whose inputs are concatenated to their last hidden layer (Dai and Wipf, *Diagnosing
    and Enhancing VAE Models*, ICLR 2019; depth 3 and width 1,024 there).

    Args:
        dim: d, of z and of u.
        depth: hidden layers.
        width: units of a hidden layer.
    """

    def __init__(self, dim: int, depth: int = 3, width: int = 1024) -> None:
        super().__init__()
        self.dim = dim
        self.encoder = _ResidualMlp(dim, 2 * dim, depth, width)
        self.decoder = _ResidualMlp(dim, dim, depth, width)
        self.log_gamma = nn.Parameter(torch.zeros(()))

    def negative_elbo(self, codes: Tensor) -> Tensor:
        """-E ln p(z|u) + KL(q(u|z)‖N(0, I)) with one draw of u for each code (N, d), in nats, shape (N,)."""
        mean, log_scale = self.encoder(codes).chunk(2, -1)
        u = mean + log_scale.exp() * torch.randn_like(mean)
        kl = (mean.square() + (2 * log_scale).exp() - 1) / 2 - log_scale
        residual = (codes - self.decoder(u)) * (-self.log_gamma).exp()
        return (kl + residual.square() / 2 + self.log_gamma + math.log(2 * math.pi) / 2).sum(-1)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draws of z, (count, d)."""
        u = torch.randn(count, self.dim, dtype=self.log_gamma.dtype, device=self.log_gamma.device)
        return self.decoder(u) + self.log_gamma.exp() * torch.randn_like(u)


class SecondStagePrior(Distribution):
    """The law of a second stage's draws in R^d. It has no density in closed form: ``log_prob`` is not implemented."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, stage: SecondStage) -> None:
        self.stage = stage
        super().__init__(torch.Size(), torch.Size([stage.dim]), validate_args=False)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        return self.stage.sample(math.prod(sample_shape)).view(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("the second stage of Dai and Wipf has no density in closed form")
