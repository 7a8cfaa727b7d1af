"""How far the means of generated rows can be from that of the prior's centre: a bound where the support is compact."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Uniform

from evae.columns import Columns
from evae.distributions import HypersphericalUniform, Kernel
from evae.models import VAE


@dataclass(frozen=True)
class MeanBound:
    """Every mean E[x|z] of a z in the prior's support has coordinate j in centre_j ± radius_j.

    Attributes:
        centre: E[x|z = 0] of each column, (F,), in the units of the data.
        radius: L_j·R, (F,), in the same units.
    """

    centre: list[float]
    radius: list[float]

    @property
    def largest(self) -> list[float]:
        """The bound on |E[x_j|z]|, (F,)."""
        return [abs(centre) + radius for centre, radius in zip(self.centre, self.radius, strict=True)]


@torch.no_grad()
def mean_bound(model: VAE, columns: Columns) -> MeanBound | str:
    """An upper bound on the means that a model of rows generates from its own prior; or why there is none.

    Where the prior's support lies within a distance R of 0, |f_j(z) - f_j(0)| ≤ L_j·R for every column j of the
    decoder's mean f (docs/theory.md: R = B√d/2 for the cube of side B). L_j is the product of the spectral norms of the
    decoder's matrices, with row j in place of the last one: an upper bound on the Lipschitz constant, as leaky ReLUs
    have constant 1, and seldom a close one.

    Args:
        model: a model of rows, with networks "mlp".
        columns: the units of its rows.
    """
    radius = support_radius(model.prior())
    if radius is None:
        return f"the support of the prior of this {type(model).__name__} is not bounded"
    constants = lipschitz_constants(model.decoder)
    if constants is None:
        return "no Lipschitz constant is known of a decoder with other layers than linear ones and leaky ReLUs"
    zero = model.prior().mean.new_zeros(1, *model.prior().event_shape)
    centre = columns.restore(model.decode(zero).cpu().numpy())[0].tolist()
    reach = [
        constant * radius * deviation for constant, deviation in zip(constants.tolist(), columns.deviation, strict=True)
    ]
    return MeanBound(centre, reach)


def support_radius(prior: Distribution) -> float | None:
    """The largest distance from 0 of a point of the prior's support; None where it is not bounded.

    B√d/2 for a uniform prior on a cube of side B, or a bounded kernel's, about 0; 1 on the unit sphere.
    """
    if isinstance(prior, HypersphericalUniform):
        return 1.0
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if isinstance(base, Uniform):
        return math.hypot(*torch.maximum(base.low.abs(), base.high.abs()).tolist())
    if isinstance(base, Kernel) and base.bounded:
        return math.hypot(*(base.loc.abs() + base.scale).tolist())
    return None


def lipschitz_constants(network: nn.Module) -> Tensor | None:
    """An upper bound on the Lipschitz constant of each output of an MLP, (F,); None where a layer is of another kind.

    Products of spectral norms (Szegedy et al., ICLR 2014, section 4.3), from Euclidean distances to absolute values.
    """
    layers = list(network)[::-1] if isinstance(network, nn.Sequential) else []
    matrices = [layer.weight.double() for layer in layers if isinstance(layer, nn.Linear)]
    others = (layer for layer in layers if not isinstance(layer, nn.Linear | nn.Unflatten | nn.Flatten))
    if not matrices or not all(isinstance(layer, nn.LeakyReLU) and layer.negative_slope <= 1 for layer in others):
        return None
    last, *before = matrices
    product = math.prod(torch.linalg.matrix_norm(matrix, 2).item() for matrix in before)
    return torch.linalg.vector_norm(last, dim=1) * product
