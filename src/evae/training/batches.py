"""Batches on the device: images travel as bytes and become numbers there."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evae.data import Images
from evae.data.batches import scaled

_ROWS = 4096  # copied to a GPU at a time


class BatchLoader:
    """Batches of one split in the order of the seed; with several ranks, each has its rows of the same batches.

    On a GPU the images are copied there once if they take at most half of its free memory. Otherwise, and where images
    are streamed, the next batch is read while the device works on this one. On a CPU a batch is read when asked for.

    ``batch_size`` is the number of images per step over all ranks.
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
        ahead = self._resident is None and (device.type == "cuda" or not images.is_local)
        self._reader = ThreadPoolExecutor(1) if ahead else None

    def __call__(self, epoch: int, step: int) -> Tensor:
        """The images (N / world_size, C, H, W) of one step, float32 in [0, 1]; or rows (N / world_size, F)."""
        if self._resident is not None:
            batch = self._resident[self._resident_order(epoch)[step, self.rows]]
        elif self._reader is not None:
            batch = self._read_ahead(self._reader, epoch, step)
        else:
            batch = self._read(epoch, step)
        return scaled(batch.to(self.device, non_blocking=True))

    def close(self) -> None:
        """Cancel pending reads."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        self.images.cancel_prefetch()

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Indices of the images of one step, over all ranks."""
        return self.images.indices(self.seed, epoch, step, self.batch_size)

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
        """As bytes, on CUDA in pinned memory, from which the GPU copies asynchronously."""
        self.images.prefetch(self.seed, epoch, step, self.batch_size)
        batch = torch.from_numpy(self.images.read(self.indices(epoch, step)[self.rows]))
        return batch.pin_memory() if self.device.type == "cuda" else batch


def _resident(images: Images, device: torch.device) -> Tensor | None:
    """All images on a GPU, as they are read, if they are local and fit."""
    if device.type != "cuda" or not images.is_local:
        return None
    first = torch.from_numpy(images.read(slice(0, 1)))
    if np.prod(images.shape, dtype=np.int64) * first.element_size() > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    resident = torch.empty(images.shape, dtype=first.dtype, device=device)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        resident[rows] = torch.from_numpy(images.read(rows)).to(device)
    return resident
