"""Metrics of reconstructions: functions that give one number an image, and their means as a torchmetrics Metric."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric


def sharpness(images: Tensor) -> Tensor:
    """Variance of the Laplacian of each image, shape (N,) (Tolstikhin et al. 2018; paper, appendix D).

    Images (N, 3, H, W) or (N, 1, H, W) in [0, 1] are made grey (luma 0.299 R + 0.587 G + 0.114 B) and filtered with
    [[0, 1, 0], [1, -4, 1], [0, 1, 0]] without padding; the population variance of the activations is taken.
    """
    x = images.double()
    grey = x[:, 0] if x.shape[1] == 1 else 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (neighbours - 4 * grey[:, 1:-1, 1:-1]).flatten(1).var(1, correction=0)


def binary_cross_entropy(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Cross-entropy of mean images against images, nats, summed over pixels and channels, shape (N,)."""
    # torch clamps each logarithm at -100.
    losses = functional.binary_cross_entropy(reconstructions.double(), images.double(), reduction="none")
    return losses.flatten(1).sum(1)


def mean_squared_error(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Squared error of each image, mean over pixels and channels, shape (N,)."""
    return (reconstructions.double() - images.double()).square().flatten(1).mean(1)


def peak_signal_noise_ratio(reconstructions: Tensor, images: Tensor) -> Tensor:
    """-10 log10 of each image's mean squared error, decibels, peak 1, shape (N,)."""
    return -10 * mean_squared_error(reconstructions, images).log10()


class PerImageMean(Metric):
    """Mean over all images of a function that gives one number an image, summed in double precision.

    Args:
        per_image: batches (N, ...) to values (N,); None: the values themselves are given.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, per_image: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.per_image = per_image
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *batch: Tensor) -> None:
        """Add a batch."""
        values = self.per_image(*batch) if self.per_image else batch[0]
        self.total += values.double().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


class Sharpness(PerImageMean):
    """Mean of ``sharpness`` over images. Higher is sharper.

    Example:
        >>> metric = Sharpness()
        >>> metric.update(torch.zeros(2, 1, 8, 8))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__(sharpness)
