"""Gauss-Legendre quadrature: a fixed rule, and panels that shrink towards points where a posterior is not smooth."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from evae.distributions.kernel import Kernel

_PANEL_NODES = 20
_HALVINGS = 0.5 ** np.arange(0, 56, 1.5)  # panels shrink to 1e-17 of the whole
_NORMAL_REACH = 12.0  # standard deviations


def double(x: Tensor) -> Tensor:
    """Float64, where the device has it: differences of nearby numbers decide the tails of a posterior."""
    return x if x.device.type == "mps" else x.double()


@cache
def _leggauss(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(((1 + x) / 2).tolist()), tuple((weights / 2).tolist())


def _legendre(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As ``_leggauss``; the compiler takes the result, and does not trace NumPy."""
    return _leggauss(nodes)


# What torch.compiler.assume_constant_result does, which imports the compiler at once: two seconds.
_legendre._dynamo_marked_constant = True  # type: ignore[attr-defined]


def legendre(nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], each (nodes,)."""
    x, weights = _legendre(nodes)
    return like.new_tensor(x), like.new_tensor(weights)


def posterior_panels(
    kernel: type[Kernel], uniform: bool, width: Tensor, spread: Tensor, peaks: Sequence[tuple[Tensor, Tensor]] = ()
) -> tuple[Tensor, Tensor]:
    """Nodes at distances from the centre of a posterior and weights, each (..., M), for integrals over one half.

    Its prior is uniform or else normal, ``width`` is w and ``spread`` B or σ, shape (...); ``peaks`` are distances and
    standard deviations of further peaks of the integrand.
    """
    reach = spread / 2 if uniform else _NORMAL_REACH * spread
    end = width * (1 if kernel.bounded else 1e4 if kernel.heavy_tailed else 60) + reach
    for peak, deviation in peaks:
        end = torch.maximum(end, peak + _NORMAL_REACH * deviation)
    zero = torch.zeros_like(end)
    places = [zero, spread / 2, (width - spread / 2).abs(), width + spread / 2] if uniform else [zero, width]
    places += [peak for peak, _ in peaks]
    offsets = end.unsqueeze(-1) * torch.cat([end.new_tensor(s * _HALVINGS) for s in (-1, 0, 1)])
    cuts = torch.cat([place.unsqueeze(-1) + offsets for place in places], -1)
    cuts = torch.minimum(cuts.clamp(min=0), end.unsqueeze(-1)).sort(-1).values
    panels = cuts.diff(dim=-1).unsqueeze(-1)  # some of no width
    x, weights = legendre(_PANEL_NODES, end)
    nodes = cuts[..., :-1].unsqueeze(-1) + panels * x
    return nodes.flatten(-2), (panels * weights).flatten(-2)
