"""Exact and near duplicates: the same content; the same picture encoded again, resized or brightened."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from evae.console import progress

_SIDE = 16  # pixels a side of what is compared
_NEIGHBOURS = 10
_LEAST = 0.9  # correlation of near duplicates
_SURE = 0.99999  # correlation that differs from 1 by rounding alone
_RATIO = 0.4  # largest ratio of distances
_BY_CHANCE = 0.5  # images of a collection that have a near duplicate by chance
_FLAT = 1.5  # grey levels of deviation below which a picture has no pattern
_BLOCK = 1024


class Match(NamedTuple):
    """An image and its nearest other image, by index, and their correlation."""

    image: int
    other: int
    correlation: float


def exact(digests: Sequence[bytes | None]) -> list[list[int]]:
    """The groups of images that have the same content, by index; None is no content."""
    groups: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests):
        if digest is not None:
            groups.setdefault(digest, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def near(pixels: NDArray[np.uint8]) -> list[Match]:
    r"""The images (N, C, S, S) that are near duplicates of others, each with its nearest one.

    Images are averaged to 16x16 pixels, centred and scaled to norm 1, so that neither brightness nor contrast counts;
    then d² = 2 - 2ρ, ρ their correlation. An image is a near duplicate of its nearest neighbour where ρ ≥ 0.9 and the
    distance d₁ to it is small compared with the one to the tenth neighbour, d₁ ≤ t·d₁₀. In a space of dimension D,
    P(d₁ ≤ t·d₁₀) = 1 - (1 - t^D)⁹ by chance, as nine neighbours lie uniformly in the ball within d₁₀; t is where half
    an image of the collection is expected to pass, at most 0.4. D is the maximum-likelihood estimate of Levina and
    Bickel (2005), the median over images. The same pixels in another format always pass. Pictures of one colour have
    no pattern, and no near duplicates.
    """
    features = _features(pixels)
    patterned = np.flatnonzero(features.square().sum(1).numpy() > 0.5)
    if len(patterned) < 2:
        return []
    correlations, rows = _nearest(features[patterned])
    distances = np.sqrt(np.maximum(2 - 2 * correlations, 1e-12))
    limit = _limit(distances, len(patterned))
    best = correlations[:, 0]
    enough = rows.shape[1] == _NEIGHBOURS  # else there is nothing to compare a distance with
    is_near = (best >= _LEAST) & (distances[:, 0] <= limit * distances[:, -1]) & enough | (best >= _SURE)
    return [Match(int(patterned[i]), int(patterned[rows[i, 0]]), float(best[i])) for i in np.flatnonzero(is_near)]


def _features(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Unit vectors (N, C·256), 0 for pictures of one colour."""
    parts = []
    for start in range(0, len(pixels), _BLOCK):
        images = torch.from_numpy(np.ascontiguousarray(pixels[start : start + _BLOCK])).float()
        small = functional.adaptive_avg_pool2d(images, _SIDE).flatten(1)
        centred = small - small.mean(1, keepdim=True)
        flat = centred.square().mean(1, keepdim=True).sqrt() < _FLAT
        parts.append(torch.where(flat, 0.0, functional.normalize(centred, dim=1)))
    return torch.cat(parts)


def _nearest(features: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The correlations (N, k) with the k ≤ 10 nearest other images, nearest first, and these, by index."""
    count = len(features)
    k = min(_NEIGHBOURS, count - 1)
    correlations, rows = np.empty((count, k)), np.empty((count, k), np.int64)
    with progress() as bar:
        task = bar.add_task("comparing images", total=count)
        for start in range(0, count, _BLOCK):
            block = features[start : start + _BLOCK] @ features.T
            block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2
            values, places = block.topk(k, dim=1)
            correlations[start : start + len(block)], rows[start : start + len(block)] = values, places
            bar.advance(task, len(block))
    return correlations, rows


def _limit(distances: NDArray[np.float64], count: int) -> float:
    """The ratio t of the first and the last distance (N, k) that half an image of ``count`` passes by chance."""
    k = distances.shape[1]
    if k < 3:
        return 0.0
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    dimension = np.median((k - 2) / np.maximum(logs.sum(1), 1e-12))
    probability = 1 - (1 - min(_BY_CHANCE / count, 0.5)) ** (1 / (k - 1))
    return float(min(_RATIO, probability ** (1 / dimension)))


def representatives(count: int, groups: Sequence[Sequence[int]], preference: Sequence[int]) -> NDArray[np.int64]:
    """The first of each image's group (N,), by index: the one of the least ``preference``, then of the least index.

    Groups that share an image are one.
    """
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for group in groups:
        for other in group[1:]:
            a, b = root(group[0]), root(other)
            first, second = sorted((a, b), key=lambda i: (preference[i], i))
            parent[second] = first
    return np.array([root(i) for i in range(count)], np.int64)
