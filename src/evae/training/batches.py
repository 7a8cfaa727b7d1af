"""Batches on the device: images travel as bytes and become numbers there."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evae.data import Images, ImageSet


class Feed:
    """Batches of one split in the order of the seed; with several processes, each has its rows of the same batches.

    On a GPU the images are copied there once if they take at most half of its free memory. Otherwise, and where images
    are streamed, the next batch is read while the device works on this one. On a CPU a batch is read when asked for.

    Args:
        images: the split.
        device: where batches are wanted.
        batch_size: over all processes.
        seed: of the order.
        rank, world_size: which of how many processes this is.
    """

    def __init__(
        self, images: Images, device: torch.device, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images, self.device, self.batch_size, self.seed = images, device, batch_size, seed
        own = batch_size // world_size
        self.rows = slice(rank * own, (rank + 1) * own)
        self.steps_per_epoch = len(images) // batch_size
        self._resident = _resident(images, device)
        self._order: tuple[int, Tensor] | None = None
        self._ahead: tuple[tuple[int, int], Future[Tensor]] | None = None
        ahead = self._resident is None and (device.type == "cuda" or self.is_streamed)
        self._reader = ThreadPoolExecutor(1) if ahead else None

    def __call__(self, epoch: int, step: int) -> Tensor:
        """The images (N / world_size, C, H, W) of one step, float32 in [0, 1]."""
        if self._resident is not None:
            batch = self._resident[self._resident_order(epoch)[step, self.rows]]
        elif self._reader is not None:
            batch = self._read_ahead(self._reader, epoch, step)
        else:
            batch = self._read(epoch, step)
        return batch.to(self.device, non_blocking=True).float().div_(255)

    @property
    def is_streamed(self) -> bool:
        """Whether a batch may not come, as the images are elsewhere."""
        return not isinstance(self.images, ImageSet)

    def close(self) -> None:
        """Wait for nothing that is still to be read."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        self.images.rest()

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Of the images of one step, over all processes."""
        return self.images.batch_indices(self.seed, epoch, step, self.batch_size)

    def _resident_order(self, epoch: int) -> Tensor:
        """An epoch's indices (steps, batch) on the device, sent there once."""
        if self._order is None or self._order[0] != epoch:
            order = np.stack([self.indices(epoch, step) for step in range(self.steps_per_epoch)])
            self._order = epoch, torch.from_numpy(order).to(self.device)
        return self._order[1]

    def _read_ahead(self, reader: ThreadPoolExecutor, epoch: int, step: int) -> Tensor:
        ahead, self._ahead = self._ahead, None
        batch = ahead[1].result() if ahead is not None and ahead[0] == (epoch, step) else self._read(epoch, step)
        following = (epoch, step + 1) if step + 1 < self.steps_per_epoch else (epoch + 1, 0)
        self._ahead = following, reader.submit(self._read, *following)
        return batch

    def _read(self, epoch: int, step: int) -> Tensor:
        """As bytes, in memory that a GPU can copy from by itself."""
        self.images.prepare(self.seed, epoch, step, self.batch_size)
        batch = torch.from_numpy(self.images.read(self.indices(epoch, step)[self.rows]))
        return batch.pin_memory() if self.device.type == "cuda" else batch


def _resident(images: Images, device: torch.device) -> Tensor | None:
    """All images on a GPU, as bytes, if they are here and fit."""
    if device.type != "cuda" or not isinstance(images, ImageSet):
        return None
    fits = images.images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
    return torch.from_numpy(np.array(images.images)).to(device) if fits else None
