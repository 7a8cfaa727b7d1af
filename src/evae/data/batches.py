"""Which images make step s of epoch e: a pure function of the seed, so that a run can start again anywhere."""

from functools import lru_cache
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


def to_float(images: NDArray[np.uint8], device: "torch.device | str" = "cpu") -> "Tensor":
    """8-bit images (N, C, H, W) as float32 in [0, 1] on ``device``."""
    import torch  # not above: processes that decode images need none of it

    return torch.from_numpy(np.array(images)).to(device).float().div_(255)
