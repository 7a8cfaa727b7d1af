"""Metrics of reconstructions: functions from batches of images to one value per image, and lists of them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from evae.runs.evaluation import Better

_SSIM_WINDOW = 11  # pixels


def sharpness(images: Tensor) -> Tensor:
    """Variance of the Laplacian of each image, shape (N,) (Tolstikhin et al. 2018; paper, appendix D).

    Images (N, C, H, W) in [0, 1] are made grey and filtered with [[0, 1, 0], [1, -4, 1], [0, 1, 0]] without padding;
    the population variance of the activations is taken. Grey is the luma 0.299 R + 0.587 G + 0.114 B of 3 channels, and
    of 4, laid over white; the mean of other numbers of channels.
    """
    x = over_white(images.double())
    luma = x.new_tensor([0.299, 0.587, 0.114]) if x.shape[1] == 3 else x.new_full((x.shape[1],), 1 / x.shape[1])
    grey = sum(weight * x[:, i] for i, weight in enumerate(luma.tolist()))
    activations = -4 * grey[:, 1:-1, 1:-1]
    for neighbour in (grey[:, :-2, 1:-1], grey[:, 2:, 1:-1], grey[:, 1:-1, :-2], grey[:, 1:-1, 2:]):
        activations += neighbour
    centred = activations.flatten(1)
    centred -= centred.mean(1, keepdim=True)
    return centred.square().mean(1)  # a quarter of the time of torch's var


def over_white(images: Tensor) -> Tensor:
    """Images (N, 4, H, W) in [0, 1], the fourth channel alpha, laid over white, (N, 3, H, W); others as they are."""
    if images.shape[1] != 4:
        return images
    return 1 - images[:, 3:] * (1 - images[:, :3])


def binary_cross_entropy(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Cross-entropy of mean images against images, nats, summed over pixels and channels, shape (N,)."""
    # torch clamps each logarithm at -100.
    losses = functional.binary_cross_entropy(reconstructions, images, reduction="none")
    return losses.flatten(1).sum(1, dtype=torch.float64)


def mean_squared_error(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Squared error of each image or row, mean over pixels and channels, or columns, shape (N,)."""
    return (reconstructions - images).square().flatten(1).mean(1, dtype=torch.float64)


def peak_signal_to_noise(reconstructions: Tensor, images: Tensor) -> Tensor:
    """PSNR of each image, -10 log10 of its mean squared error, in dB, shape (N,)."""
    return -10 * mean_squared_error(reconstructions, images).log10()


def structural_similarity(reconstructions: Tensor, images: Tensor) -> Tensor | None:
    """SSIM of each image, mean over pixels and channels, range 1, shape (N,) (Wang et al. 2004).

    With their Gaussian windows of 11 pixels and standard deviation 1.5, and images mirrored at their edges; None for
    images smaller than a window.
    """
    # Separable windows as matrices: torchmetrics' convolutions, with the same values, take as long as the networks.
    x, y = reconstructions, images
    if min(x.shape[2:]) < _SSIM_WINDOW:
        return None
    rows, columns = (_gaussian_windows(size, x) for size in x.shape[2:])
    across = torch.stack([x, y, x * x, y * y, x * y]) @ columns.T
    mean_x, mean_y, square_x, square_y, product = across.transpose(-1, -2) @ rows.T  # transposed, all of them
    variances = (square_x - mean_x.square()).clamp(min=0) + (square_y - mean_y.square()).clamp(min=0)
    covariance = product - mean_x * mean_y
    a, b = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + a) * (2 * covariance + b)
    similarity /= (mean_x.square() + mean_y.square() + a) * (variances + b)
    return similarity.flatten(1).mean(1)


def _gaussian_windows(size: int, like: Tensor) -> Tensor:
    """The weights of a window around every place, with what is beyond the edges mirrored; (size, size)."""
    offsets = torch.arange(_SSIM_WINDOW, device=like.device) - _SSIM_WINDOW // 2
    weights = (-offsets.to(like.dtype).square() / (2 * 1.5**2)).exp()
    index = (torch.arange(size, device=like.device)[:, None] + offsets).abs()
    index = torch.minimum(index, 2 * (size - 1) - index)
    return like.new_zeros(size, size).scatter_add_(1, index, (weights / weights.sum()).expand(size, -1))


# Of reconstructions and originals (N, C, H, W), both in [0, 1] and on the CPU, to values (N,); None where the images do
# not allow it. A new metric is a function and a line here.
METRICS: list[tuple[str, Better, Callable[[Tensor, Tensor], Tensor | None]]] = [
    ("bce", "lower", binary_cross_entropy),
    ("mse", "lower", mean_squared_error),
    ("psnr", "higher", peak_signal_to_noise),
    ("ssim", "higher", structural_similarity),
]
# Of rows (N, F), in standardised units.
ROW_METRICS: list[tuple[str, Better, Callable[[Tensor, Tensor], Tensor | None]]] = [
    ("mse", "lower", mean_squared_error)
]
# Of images alone: reconstructions are the better, the closer they are to the originals' mean.
STATISTICS: list[tuple[str, Callable[[Tensor], Tensor]]] = [("sharpness", sharpness)]


class Sharpness:
    """Mean of ``sharpness`` over batches of images, in double precision.

    Examples:
        >>> metric = Sharpness()
        >>> metric.update(torch.zeros(2, 1, 8, 8))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._total, self._count = torch.zeros((), dtype=torch.float64), 0

    def update(self, images: Tensor) -> None:
        """Add images (N, C, H, W)."""
        self._total += sharpness(images).sum().cpu()
        self._count += len(images)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self._total / self._count
