"""Which images make step s of epoch e: a pure function of the seed, so that a run can start again anywhere."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evae.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def usable_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        ConfigError: it is negative or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must not be negative nor have more than 63 bits, not {seed}")
    return seed


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation of ``count`` images that epoch ``epoch`` goes through."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, epoch: int, step: int, count: int, batch_size: int) -> NDArray[np.int64]:
    """Indices of the images of one step; an epoch has ``count // batch_size`` steps, all of full size."""
    return epoch_order(seed, epoch, count)[step * batch_size : (step + 1) * batch_size]


@dataclass(frozen=True, eq=False)
class Groups:
    """Images that can only be read a group at a time, and an order of them for which few groups are needed at once.

    In each epoch the groups are shuffled and cut into windows of about ``window`` bytes; then the images of each window
    are. With a single window this is a permutation of all images.

    Attributes:
        counts: images in each group.
        sizes: bytes of each group.
        window: bytes of a window; it has at least one group.
    """

    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    window: int

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """How many images come before each group."""
        return np.cumsum(self.counts) - self.counts

    def batch_indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """As the function of this name."""
        starts = _window_starts(self, seed, epoch)
        first, last = step * batch_size, (step + 1) * batch_size
        windows = range(int(np.searchsorted(starts, first, "right")) - 1, int(np.searchsorted(starts, last)))
        parts = [
            _window_order(self, seed, epoch, w)[max(0, first - starts[w]) : max(0, last - starts[w])] for w in windows
        ]
        return np.concatenate(parts)

    def soon(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """The groups of the window in which a batch ends, and of the one after it, in this epoch or the next."""
        windows, starts = _windows(self, seed, epoch), _window_starts(self, seed, epoch)
        following = int(np.searchsorted(starts, (step + 1) * batch_size))
        after = windows[following] if following < len(windows) else _windows(self, seed, epoch + 1)[0]
        return np.concatenate([windows[following - 1], after])


@lru_cache(maxsize=2)
def _windows(groups: Groups, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The groups in each window of an epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(len(groups.counts))
    ends = np.cumsum(groups.sizes[order])
    return np.split(order, np.flatnonzero(np.diff((ends - 1) // groups.window)) + 1)


@lru_cache(maxsize=2)
def _window_starts(groups: Groups, seed: int, epoch: int) -> NDArray[np.int64]:
    """How many images come before each window of an epoch, and, last, all of them."""
    counts = [groups.counts[window].sum() for window in _windows(groups, seed, epoch)]
    return np.cumsum([0, *counts])


@lru_cache(maxsize=2)
def _window_order(groups: Groups, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """The images of one window, shuffled."""
    chosen = _windows(groups, seed, epoch)[window]
    images = np.concatenate([groups.starts[g] + np.arange(groups.counts[g]) for g in chosen])
    # With 0 as its last number this would be the generator of [seed, epoch].
    return np.random.default_rng([seed, epoch, window + 1]).permutation(images)


def to_float(images: NDArray[np.uint8], device: "torch.device | str" = "cpu") -> "Tensor":
    """8-bit images (N, C, H, W) as float32 in [0, 1] on ``device``."""
    import torch  # not above: processes that decode images need none of it

    return torch.from_numpy(np.array(images)).to(device).float().div_(255)
