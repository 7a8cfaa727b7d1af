"""Codes and errors of hold-out images, and images decoded from interpolations and traversals of the latent space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evae.data import ImageSet, to_float
from evae.distributions import HypersphericalUniform, posterior_spread
from evae.metrics.image import mean_squared_error
from evae.models import VAE
from evae.runs.images import BATCH, batches

_RANGE = (0.05, 0.95)  # quantiles of a latent's codes between which it is traversed


@dataclass(frozen=True)
class Survey:
    """Results of one pass over N images.

    Attributes:
        codes: the code of each image, (N, d).
        errors: squared error of each image decoded from it, mean over pixels, (N,).
        mean_image: the mean of all images, (C, H, W).
        spread_name, spreads: name and values of the posteriors' spread, as of ``posterior_spread``; None for none.
        on_sphere: whether codes are points of the unit sphere.
    """

    codes: Tensor
    errors: Tensor
    mean_image: Tensor
    spread_name: str | None
    spreads: NDArray[np.floating] | None
    on_sphere: bool = False


class Traversal(NamedTuple):
    """Images decoded while one latent goes from ``low`` to ``high``; ``activity`` is its codes' variance."""

    latent: int
    activity: float
    low: float
    high: float
    images: Tensor


@torch.no_grad()
def survey(model: VAE, images: ImageSet) -> Survey:
    """Encode all images and decode them again."""
    codes, errors, spreads = [], [], []
    total, name = torch.zeros(model.image_shape, dtype=torch.float64), None
    for batch in batches(images, model.device, "encoding"):
        q = model.posterior(batch)
        code = model.code(q)
        codes.append(code.cpu())
        errors.append(mean_squared_error(model.decode(code).cpu(), batch.cpu()))
        total += batch.cpu().double().sum(0)
        name, spread = posterior_spread(q)
        if spread is not None:
            spreads.append(spread.cpu().flatten())
    widths = torch.cat(spreads).numpy() if spreads else None
    on_sphere = isinstance(model.prior(), HypersphericalUniform)
    return Survey(torch.cat(codes), torch.cat(errors), (total / len(images)).float(), name, widths, on_sphere)


def by_error(errors: Tensor, count: int) -> dict[str, Tensor]:
    """Indices of ``count`` images with the smallest errors, with errors around the median, and with the largest."""
    order = errors.argsort(stable=True)
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    return {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:].flip(0)}


def originals(model: VAE, images: ImageSet, rows: Tensor) -> Tensor:
    """Images (N, C, H, W) by index, in this order, on the model's device."""
    return to_float(images.read(rows.numpy()), model.device)


@torch.no_grad()
def interpolations(model: VAE, starts: Tensor, ends: Tensor, steps: int, on_sphere: bool) -> Tensor:
    """Images (N, steps, C, H, W) decoded from codes between ``starts`` and ``ends`` (N, d), both included."""
    way = great_circle if on_sphere else torch.lerp
    return _decoded(model, way(starts[:, None], ends[:, None], torch.linspace(0, 1, steps)[:, None]))


def great_circle(start: Tensor, end: Tensor, t: float | Tensor) -> Tensor:
    """The unit vectors (..., d) at a fraction t of the shortest arc from ``start`` to ``end``."""
    angle = (start * end).sum(-1, keepdim=True).clamp(-1, 1).acos()
    near = angle.sin() < 1e-4  # the arc is straight, or not unique
    first, second = (torch.where(near, part, (part * angle).sin()) for part in (1 - t, t))
    return functional.normalize(first * start + second * end, dim=-1)


@torch.no_grad()
def traversals(
    model: VAE, found: Survey, count: int, steps: int, information: Sequence[float] | None = None
) -> list[Traversal]:
    """Some latents in turn, each between the 5 % and 95 % quantiles of its codes.

    They are those with the most ``information`` (d,), and the others are as in the code that is nearest to the mean of
    all; without it those whose codes vary most, and the others are as in the code of the mean image. On a sphere, they
    are scaled to keep the norm 1.
    """
    activity = found.codes.double().var(0, correction=0)
    order = activity if information is None else torch.tensor(information, dtype=torch.float64)
    latents = order.argsort(descending=True, stable=True)[:count]
    limits = found.codes[:, latents].double().quantile(torch.tensor(_RANGE, dtype=torch.float64), dim=0)
    if information is None:
        base = model.encode(found.mean_image[None].to(model.device)).cpu()
    else:
        base = found.codes[(found.codes - found.codes.mean(0)).square().sum(1).argmin()]
    codes = base.repeat(len(latents), steps, 1)
    for code, latent, low, high in zip(codes, latents.tolist(), *limits.tolist(), strict=True):
        values = torch.linspace(low, high, steps)
        if found.on_sphere:
            code[:, latent] = 0
            code.copy_(functional.normalize(code, dim=1) * (1 - values.square()).clamp(min=0).sqrt()[:, None])
        code[:, latent] = values
    rows = zip(latents.tolist(), activity[latents].tolist(), *limits.tolist(), _decoded(model, codes), strict=True)
    return [Traversal(*row) for row in rows]


def _decoded(model: VAE, codes: Tensor) -> Tensor:
    """Images (A, B, C, H, W) of codes (A, B, d)."""
    parts = codes.flatten(0, 1).to(model.device).split(BATCH)
    return torch.cat([model.decode(part).cpu() for part in parts]).unflatten(0, codes.shape[:2])
