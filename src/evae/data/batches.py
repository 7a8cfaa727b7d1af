"""The images of step s of epoch e: a pure function of the seed, so that a run can resume at any step."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation of ``count`` images in epoch ``epoch``."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, epoch: int, step: int, count: int, batch_size: int) -> NDArray[np.int64]:
    """(batch_size,) indices of the images of one step; an epoch has ``count // batch_size`` steps, all of full size."""
    return epoch_order(seed, epoch, count)[step * batch_size : (step + 1) * batch_size]


@dataclass(frozen=True, eq=False)
class Groups:
    """Images that can only be read in groups, and a random order of them that needs few groups at once.

    In each epoch the groups are shuffled and divided into windows of about ``window`` bytes; then the images within
    each window are shuffled. With a single window this is a permutation of all images.
    """

    counts: NDArray[np.int64]  # images in each group
    sizes: NDArray[np.int64]  # bytes of each group
    window: int  # bytes of a window; it has at least one group

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """How many images come before each group."""
        return np.cumsum(self.counts) - self.counts

    def batch_indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """(batch_size,) indices of the images of one step, as the function of this name has them."""
        _, starts = _windows(self, seed, epoch)
        first, last = step * batch_size, (step + 1) * batch_size
        windows = range(int(np.searchsorted(starts, first, "right")) - 1, int(np.searchsorted(starts, last)))
        parts = [_window_order(self, seed, epoch, w)[max(0, first - starts[w]) : last - starts[w]] for w in windows]
        return np.concatenate(parts)

    def soon(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """The groups of the window in which a batch ends, and of the one after it, in this epoch or the next."""
        windows, starts = _windows(self, seed, epoch)
        following = int(np.searchsorted(starts, (step + 1) * batch_size))
        after = windows[following] if following < len(windows) else _windows(self, seed, epoch + 1)[0][0]
        return np.concatenate([windows[following - 1], after])


@lru_cache(maxsize=2)
def _windows(groups: Groups, seed: int, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The groups in each window of an epoch, and how many images come before each window and, last, in all."""
    order = np.random.default_rng([seed, epoch]).permutation(len(groups.counts))
    ends = np.cumsum(groups.sizes[order])
    windows = np.split(order, np.flatnonzero(np.diff((ends - 1) // groups.window)) + 1)
    return windows, np.cumsum([0, *(groups.counts[window].sum() for window in windows)])


@lru_cache(maxsize=2)
def _window_order(groups: Groups, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """The images of one window, shuffled."""
    chosen = _windows(groups, seed, epoch)[0][window]
    images = np.concatenate([groups.starts[g] + np.arange(groups.counts[g]) for g in chosen])
    # With 0 as its last number this would be the generator of [seed, epoch].
    return np.random.default_rng([seed, epoch, window + 1]).permutation(images)


def to_float(images: NDArray[Any], device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """What a split's ``read`` returns as a model takes it, on ``device``: see ``scaled``."""
    import torch  # here, as processes that decode images do not need it

    return scaled(torch.from_numpy(np.array(images)).to(device))


def scaled(batch: "torch.Tensor") -> "torch.Tensor":
    """8-bit images (N, C, H, W) as float32 in [0, 1]; rows (N, F), which are standardised already, as they are."""
    return batch.float() if batch.is_floating_point() else batch.float().div_(255)
