"""Directions of the latent space along which codes differ: principal axes, and the latents that vary most."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_RANGE = (0.01, 0.99)  # quantiles of the coordinates between which a slider moves


@dataclass(frozen=True)
class Directions:
    """Lines through the latent space, each with the range of the codes' coordinates.

    Attributes:
        names: of each of the K directions.
        vectors: (K, d), of length 1 and orthogonal.
        origin: (d,), from which coordinates ⟨z - origin, v⟩ are measured.
        low, high: 1 % and 99 % quantiles of the codes' coordinates, (K,).
        share: fraction of the codes' total variance along each, (K,).
    """

    names: list[str]
    vectors: Tensor
    origin: Tensor
    low: Tensor
    high: Tensor
    share: Tensor


def centre_of(codes: Tensor, on_sphere: bool) -> Tensor:
    """The mean (d,) of codes (N, d); on the unit sphere the mean direction."""
    mean = codes.double().mean(0)
    return functional.normalize(mean, dim=0) if on_sphere else mean


def principal_axes(codes: Tensor, centre: Tensor, count: int) -> Directions:
    """The axes of largest variance of codes (N, d), largest first; each axis points to its largest entry.

    They are the eigenvectors of the covariance, found in float64.
    """
    covariance = codes.double().T.cov().reshape(codes.shape[1], codes.shape[1])
    _, columns = torch.linalg.eigh(covariance)
    vectors = columns.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    return _ranged([f"axis {i + 1}" for i in range(len(vectors))], vectors, codes, centre)


def active_latents(codes: Tensor, count: int) -> Directions:
    """The latents whose codes (N, d) vary most, largest variance first."""
    latents = codes.double().var(0).argsort(descending=True, stable=True)[:count]
    vectors = torch.eye(codes.shape[1], dtype=torch.float64)[latents]
    return _ranged([f"z{i}" for i in latents.tolist()], vectors, codes, torch.zeros(codes.shape[1]).double())


def _ranged(names: list[str], vectors: Tensor, codes: Tensor, origin: Tensor) -> Directions:
    coordinates = (codes.double() - origin) @ vectors.T
    low, high = coordinates.quantile(torch.tensor(_RANGE, dtype=torch.float64), dim=0)
    total = codes.double().var(0).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Directions(names, vectors, origin, low, high, coordinates.var(0) / total)
